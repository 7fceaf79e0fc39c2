// A token moves no row before it on a GPU either, but for rounding: a circular wrap would carry it back whole.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "ops/conv_basis/conv_basis.h"

namespace basis::ops {
namespace {

std::vector<double> normal(int64_t n, uint64_t stream) {
  core::HostRandom random(41, stream);
  std::vector<double> v(static_cast<size_t>(n));
  for (double& x : v) x = random.normal();
  return v;
}

TEST(ConvBasisCudaCausality, EveryLength) {
  if (core::device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  constexpr int64_t H = 2, D = 16;
  std::vector<int64_t> lengths{1000, 4099, 20011};
  for (int64_t T = 1; T <= 300; ++T) lengths.push_back(T);
  for (int64_t T : lengths)
    for (int window : {0, 3}) {
      ConvBasisOptions o{.k = std::min<int64_t>(T, 1 + T % 7), .window = window};
      Shape shape{1, T, H, D};
      int64_t t = 7919 % T, row = H * D;
      std::vector<std::vector<double>> in{normal(T * row, uint64_t(3 * T)), normal(T * row, uint64_t(3 * T + 1)),
                                          normal(T * row, uint64_t(3 * T + 2))};
      auto run = [&] {
        auto var = [&](int i) { return Var(Tensor::from(in[size_t(i)], shape).to(DType::f32).to(core::cuda())); };
        return conv_basis_attention(var(0), var(1), var(2), o).value().to_vector<double>();
      };
      auto before = run();
      for (int64_t d = 0; d < row; ++d) in[0][size_t(t * row + d)] += 1, in[1][size_t(t * row + d)] += 1;
      for (int64_t d = 0; d < row; ++d) in[2][size_t(t * row + d)] += 30;
      auto after = run();
      for (int64_t i = 0; i < t * row; ++i)
        ASSERT_LE(std::abs(after[size_t(i)] - before[size_t(i)]), 3e-3)  // of 30
            << "row " << i / row << " of " << T << " when token " << t << " moves";
      EXPECT_NE(after[size_t(t * row)], before[size_t(t * row)]) << T;
    }
}

}  // namespace
}  // namespace basis::ops
