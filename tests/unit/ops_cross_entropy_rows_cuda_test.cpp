// The loss of 16-bit logits in rows as long as vocabularies, on a GPU against the CPU.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace basis::ops {
namespace {

using core::DType;

void compare(DType dtype, int64_t n, int64_t v, int64_t stride) {
  SCOPED_TRACE(testing::Message() << core::name_of(dtype) << " " << n << " x " << v << " of " << stride);
  core::HostRandom r(3, uint64_t(v));
  std::vector<float> x(size_t(n * stride));
  for (float& e : x) e = float(r.normal() * 3);
  std::vector<int32_t> targets(static_cast<size_t>(n));
  for (int32_t& t : targets) t = int32_t(r.bits() % uint64_t(v));
  targets[0] = -100, targets[1] = 0, targets[2] = int32_t(v - 1);
  for (int64_t j = 0; j < v; j += 3) x[size_t(5 * stride + j)] = -INFINITY;
  targets[5] = 1;
  core::Tensor rounded = core::Tensor::from(x, {n, stride}).to(dtype);
  core::Tensor expected = rounded.to(DType::f32).slice(1, 0, v).contiguous();
  core::Tensor ids = core::Tensor::from(targets, {n}), loss = core::Tensor::empty({n}, DType::f32);
  cross_entropy_chunk(core::DeviceType::cpu, DType::f32, expected, ids, -100, true, loss, core::Tensor());

  core::Tensor got = rounded.to(core::cuda()), got_loss = core::Tensor::empty({n}, DType::f32, core::cuda());
  cross_entropy_chunk(core::DeviceType::cuda, dtype, got.slice(1, 0, v), ids.to(core::cuda()), -100, true, got_loss,
                      core::Tensor());
  auto a = loss.to_vector<float>(), b = got_loss.to_vector<float>();
  for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(a[size_t(i)], b[size_t(i)], 1e-4 * (1 + std::fabs(a[size_t(i)]))) << i;
  auto want = expected.to_vector<float>(), have = got.to(core::cpu).to(DType::f32).to_vector<float>();
  double step = dtype == DType::bf16 ? 0.0045 : 0.001;  // half a unit in the last place, and the exponential's error
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < stride; ++j) {
      float w = j < v ? want[size_t(i * v + j)] : 0.0f;
      ASSERT_NEAR(w, have[size_t(i * stride + j)], step * std::fabs(w) + 1e-7) << i << " " << j;
    }
}

TEST(CrossEntropyRowsCuda, EqualTheCpu) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  for (DType dtype : {DType::bf16, DType::f16}) {
    compare(dtype, 600, 8200, 8200);  // more rows than blocks; a last piece of one vector
    compare(dtype, 40, 50304, 50304);
    compare(dtype, 300, 4104, 4112);
    compare(dtype, 20, 5001, 5008);
  }
}

TEST(CrossEntropyRowsCuda, NotANumberShowsInTheLoss) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  std::vector<float> x(size_t(4 * 8192), 0.5f);
  x[8192 + 77] = NAN;
  core::Tensor logits = core::Tensor::from(x, {4, 8192}).to(DType::bf16).to(core::cuda());
  core::Tensor loss = core::Tensor::empty({4}, DType::f32, core::cuda());
  core::Tensor ids = core::Tensor::from(std::vector<int32_t>{1, 2, 3, 4}, {4}).to(core::cuda());
  cross_entropy_chunk(core::DeviceType::cuda, DType::bf16, logits, ids, -100, true, loss, core::Tensor());
  auto values = loss.to_vector<float>();
  EXPECT_NEAR(values[0], std::log(8192.0), 1e-3);
  EXPECT_TRUE(std::isnan(values[1]));
  EXPECT_NEAR(values[2], std::log(8192.0), 1e-3);
}

}  // namespace
}  // namespace basis::ops
