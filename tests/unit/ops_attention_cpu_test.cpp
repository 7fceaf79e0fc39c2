// The CPU kernels of fused attention for every vector width that this processor has, against naive attention in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.h"
#include "ops/fused_attention/fused_attention_cpu_blocks.h"
#include "ops/naive_attention/naive_attention.h"

namespace basis::ops::cpu_attention {
namespace {

template <class T>
Tensor uniform(const Shape& shape, uint64_t seed) {
  std::vector<T> x(size_t(shape.numel()));
  for (size_t i = 0; i < x.size(); ++i) x[i] = T(2 * core::uniform_from_bits(core::philox(seed, 0, i).x) - 1);
  return Tensor::from(x, shape);
}

struct Setting {
  AttentionOptions o;
  int64_t T, S, D, Dv;
};

std::vector<Setting> settings() {
  AttentionOptions causal, full, window;
  full.causal = false;
  window.window = 40, window.sink = 3;
  return {{causal, 150, 150, 20, 33}, {full, 65, 300, 64, 64}, {window, 190, 261, 130, 5}, {causal, 3, 5, 1, 1}};
}

template <class T>
void expect_close(const std::vector<T>& got, const Tensor& expected, double tolerance, const char* what) {
  ASSERT_EQ(int64_t(got.size()), expected.numel());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(double(got[i]), expected.data<double>()[i], tolerance) << what << " at " << i;
}

template <class T>
void check(const Kernels<T>& run, const Setting& s, double tolerance) {
  Tensor q = uniform<T>({1, s.T, 1, s.D}, 1), k = uniform<T>({1, s.S, 1, s.D}, 2), v = uniform<T>({1, s.S, 1, s.Dv}, 3),
         g = uniform<T>({1, s.T, 1, s.Dv}, 4);
  auto leaf = [](const Tensor& t) { return Var(t.to(core::DType::f64), true); };
  Var q64 = leaf(q), k64 = leaf(k), v64 = leaf(v), expected = naive_attention(q64, k64, v64, s.o);
  expected.backward(g.to(core::DType::f64));

  AttentionShape n = check_attention(q, k, v, s.o, "test");
  int64_t S = round_up(s.S, run.width), D = round_up(s.D, run.width), Dv = round_up(s.Dv, run.width);
  auto zeros = [](int64_t count) { return std::vector<T>(size_t(count), T(0)); };
  auto kt = zeros(S * s.D), vt = zeros(S * s.Dv), kc = zeros(S * D), vc = zeros(S * Dv),
       scratch = zeros(run.scratch(n));
  auto o = zeros(s.T * s.Dv), lse = zeros(s.T), dq = zeros(s.T * s.D), dk = zeros(S * D), dv = zeros(S * Dv);
  PackedKeys<T> packed{kt.data(), vt.data(), kc.data(), vc.data()};
  for (int64_t k0 = 0; k0 < s.S; k0 += kKeys<T>)
    run.pack(n, k.data<T>(), s.D, v.data<T>(), s.Dv, k0, std::min(kKeys<T>, s.S - k0), packed);
  for (int64_t row = 0; row < s.T; row += kRows) {
    Block block{n, s.o, 0, 0, row, std::min(kRows, s.T - row)};
    BlockData<T> data{q.data<T>() + row * s.D, o.data() + row * s.Dv, g.data<T>() + row * s.Dv,
                      o.data() + row * s.Dv,   lse.data() + row,      dq.data() + row * s.D};
    run.forward(block, data, packed, scratch.data());
    run.backward(block, data, packed, dk.data(), dv.data(), scratch.data());
  }
  auto rows = [&](const std::vector<T>& x, int64_t cols, int64_t ld) {
    std::vector<T> tight;
    for (int64_t r = 0; r < s.S; ++r) tight.insert(tight.end(), x.begin() + r * ld, x.begin() + r * ld + cols);
    return tight;
  };
  expect_close(o, expected.value(), tolerance, "o");
  expect_close(dq, q64.grad(), tolerance, "dq");
  expect_close(rows(dk, s.D, D), k64.grad(), tolerance, "dk");
  expect_close(rows(dv, s.Dv, Dv), v64.grad(), tolerance, "dv");
}

template <class T>
void check_all(const Kernels<T>* run, double tolerance) {
  if (!run) GTEST_SKIP() << "this processor lacks the instructions";
  for (const Setting& s : settings()) check(*run, s, tolerance);
}

TEST(AttentionCpu, Baseline) {
  check_all(&Blocks<Simd<float, 16>>::table, 2e-5);
  check_all(&Blocks<Simd<double, 16>>::table, 1e-12);
}
TEST(AttentionCpu, Avx2) {
  check_all(kernels_avx2<float>(), 2e-5);
  check_all(kernels_avx2<double>(), 1e-12);
}
TEST(AttentionCpu, Avx512) {
  check_all(kernels_avx512<float>(), 2e-5);
  check_all(kernels_avx512<double>(), 1e-12);
}

TEST(AttentionCpu, ExponentialToTheLastDigits) {
  using S = Simd<double, 16>;
  using F = Simd<float, 16>;
  for (double x = -700; x <= 1; x += 0.0371) {
    EXPECT_NEAR(S::exp(S::Vector{} + x)[0] / std::exp(x), 1, 1e-15) << x;
    if (x > -87) {
      EXPECT_NEAR(F::exp(F::Vector{} + float(x))[0] / std::exp(double(float(x))), 1, 3e-7) << x;
    }
  }
  EXPECT_EQ(S::exp(S::Vector{} - INFINITY)[0], 0);
  EXPECT_TRUE(std::isnan(S::exp(S::Vector{} + NAN)[0]) && std::isnan(F::exp(F::Vector{} + NAN)[0]));
}

}  // namespace
}  // namespace basis::ops::cpu_attention
