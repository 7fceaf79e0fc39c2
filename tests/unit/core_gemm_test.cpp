// GEMM against three loops in f64: every transposition, batches, leading dimensions, alpha, beta and bias.
#include "core/gemm/gemm.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "core/rng.h"

namespace basis::core {
namespace {

constexpr double kCanary = 777;  // between the rows and the batches of C: must stay

struct Problem {
  int64_t m, n, k, batch, pad;
  double alpha, beta;
  bool bias;
};

template <class T>
std::vector<T> random_values(int64_t n, uint64_t stream) {
  HostRandom random(11, stream);
  std::vector<T> v(static_cast<size_t>(n));
  for (T& x : v) x = T(2 * random.uniform() - 1);
  return v;
}

template <class T>
void compare(const Problem& p, bool ta, bool tb) {
  int64_t rows_a = ta ? p.k : p.m, columns_a = ta ? p.m : p.k, rows_b = tb ? p.n : p.k, columns_b = tb ? p.k : p.n;
  Gemm g{.trans_a = ta, .trans_b = tb, .m = p.m, .n = p.n, .k = p.k, .batch = p.batch};
  g.lda = columns_a + p.pad, g.ldb = columns_b + p.pad, g.ldc = p.n + p.pad;
  g.stride_a = rows_a * g.lda + p.pad, g.stride_b = rows_b * g.ldb + p.pad, g.stride_c = p.m * g.ldc + p.pad;
  g.alpha = p.alpha, g.beta = p.beta;
  auto a = random_values<T>(p.batch * g.stride_a + 1, 1), b = random_values<T>(p.batch * g.stride_b + 1, 2);
  auto c = random_values<T>(p.batch * g.stride_c + 1, 3), bias = random_values<T>(p.n + 1, 4);
  std::vector<double> expected(c.size(), kCanary);
  std::vector<bool> inside(c.size(), false);
  for (int64_t s = 0; s < p.batch; ++s)
    for (int64_t i = 0; i < p.m; ++i)
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0;
        for (int64_t l = 0; l < p.k; ++l)
          sum += double(a[size_t(s * g.stride_a + (ta ? l * g.lda + i : i * g.lda + l))]) *
                 double(b[size_t(s * g.stride_b + (tb ? j * g.ldb + l : l * g.ldb + j))]);
        size_t at = size_t(s * g.stride_c + i * g.ldc + j);
        inside[at] = true;
        expected[at] =
            p.alpha * sum + (p.beta == 0 ? 0 : p.beta * double(c[at])) + (p.bias ? double(bias[size_t(j)]) : 0);
      }
  for (size_t i = 0; i < c.size(); ++i)
    if (!inside[i])
      c[i] = T(kCanary);
    else if (p.beta == 0)
      c[i] = T(NAN);  // beta 0 reads nothing of C
  g.a = a.data(), g.b = b.data(), g.c = c.data(), g.bias = p.bias ? bias.data() : nullptr;
  gemm(g, dtype_of<T>(), cpu);
  double tolerance = 8 * epsilon(dtype_of<T>()) * double(p.k + 2) * (std::abs(p.alpha) + std::abs(p.beta) + 1);
  for (size_t i = 0; i < c.size(); ++i)
    ASSERT_NEAR(double(c[i]), expected[i], inside[i] ? tolerance : 0)
        << p.m << " x " << p.n << " x " << p.k << (ta ? " A^T" : "") << (tb ? " B^T" : "") << " element " << i;
}

TEST(Gemm, MatchesThreeLoops) {
  const Problem problems[] = {
      {1, 1, 1, 1, 0, 1, 0, false},       {3, 5, 7, 1, 0, 1, 0, false}, {3, 5, 7, 1, 2, 1, 0, true},
      {17, 33, 65, 1, 0, 0.5, 1, false},  {8, 8, 8, 3, 1, 1, -2, true}, {1, 64, 9, 4, 0, -1, 0.25, false},
      {64, 1, 129, 2, 3, 1, 1, true},     {4, 6, 0, 2, 1, 1, 0, false}, {4, 6, 0, 2, 1, 1, 3, true},
      {100, 70, 50, 1, 5, 1.5, 0, false},
  };
  for (const Problem& p : problems)
    for (bool ta : {false, true})
      for (bool tb : {false, true}) {
        compare<float>(p, ta, tb);
        compare<double>(p, ta, tb);
      }
}

// Choosing a kernel by timing runs the product many times; what it adds to must be added to once.
TEST(Gemm, CudaTimingLeavesTheResultAlone) {
  if (device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  bool before = deterministic();
  for (DType out : {DType::bf16, DType::f32})
    for (double beta : {0.0, 1.0}) {
      auto product = [&](bool choose) {
        set_deterministic(!choose);
        auto random = [](uint64_t stream) {
          return Tensor::from(random_values<float>(640 * 576, stream), {640, 576}).to(DType::bf16).to(cuda());
        };
        Tensor c = Tensor::full({576, 576}, 100, out, cuda());
        matmul(random(1), true, random(2), false, c, beta);
        return c.to_vector<double>();
      };
      auto chosen = product(true), first = product(false);
      for (size_t i = 0; i < chosen.size(); ++i) ASSERT_NEAR(chosen[i], first[i], out == DType::f32 ? 1e-3 : 1) << i;
    }
  set_deterministic(before);
}

TEST(Gemm, NothingToDo) {
  for (auto [m, n, batch] : std::vector<std::array<int64_t, 3>>{{0, 3, 1}, {3, 0, 1}, {3, 3, 0}}) {
    Gemm g{.m = m, .n = n, .k = 2, .batch = batch, .lda = 2, .ldb = 3, .ldc = 3};
    gemm(g, DType::f32, cpu);  // touches no memory: all pointers are null
  }
}

TEST(Gemm, MatmulRefusesWhatDoesNotFit) {
  auto t = [](int64_t r, int64_t c, DType type = DType::f32) { return Tensor::zeros({r, c}, type); };
  EXPECT_NO_THROW(matmul(t(2, 3), false, t(4, 3), true, t(2, 4), 0, Tensor::zeros({4}, DType::f32)));
  EXPECT_THROW(matmul(t(2, 3), false, t(4, 3), false, t(2, 3)), Error);
  EXPECT_THROW(matmul(t(2, 3), true, t(3, 4), false, t(2, 4)), Error);
  EXPECT_THROW(matmul(t(2, 3), false, t(3, 4), false, t(4, 2)), Error);
  EXPECT_THROW(matmul(t(2, 3), false, t(3, 4, DType::f64), false, t(2, 4)), Error);
  EXPECT_THROW(matmul(t(3, 2).transpose(0, 1), false, t(3, 4), false, t(2, 4)), Error);
  EXPECT_THROW(matmul(t(2, 3), false, t(3, 4), false, t(2, 4), 0, Tensor::zeros({3}, DType::f32)), Error);
  EXPECT_THROW(matmul(t(2, 3, DType::i32), false, t(3, 4, DType::i32), false, t(2, 4, DType::i32)), Error);
}

}  // namespace
}  // namespace basis::core
