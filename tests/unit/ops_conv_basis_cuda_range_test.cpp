// Conv-basis attention on CUDA in f32 with values from 1e-30 to 1e30 in one head, as on the CPU (ConvBasisRange): each
// element is as accurate as the values that its row sees in its channel allow.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "ops/conv_basis/conv_basis.h"

namespace basis::ops {
namespace {

class ConvBasisCudaRange : public ::testing::Test {
 protected:
  void SetUp() override {
    if (core::device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  }
};

Tensor normal(const Shape& shape, uint64_t stream, double scale) {
  core::HostRandom r(29, stream);
  std::vector<float> v(size_t(shape.numel()));
  for (float& x : v) x = float(scale * r.normal());
  return Tensor::from(v, shape);
}

// The largest error of an element beside the largest value that its row sees in its channel; v [1,T,1,Dv].
double error(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& o) {
  int64_t T = v.size(1), Dv = v.size(3);
  auto wide = [](const Tensor& x) { return Var(x.to(DType::f64)); };
  auto on = [](const Tensor& x) { return Var(x.to(core::cuda())); };
  auto got = conv_basis_attention(on(q), on(k), on(v), o).value().to_vector<double>();
  auto want = conv_basis_naive(wide(q), wide(k), wide(v), o).value().to_vector<double>();
  auto values = v.to_vector<double>();
  double worst = 0;
  for (int64_t d = 0; d < Dv; ++d) {
    double seen = 0;
    for (int64_t i = o.causal ? 0 : -T; i < T; ++i) {
      seen = std::max(seen, std::abs(values[size_t((i < 0 ? i + T : i) * Dv + d)]));
      if (i < 0) continue;
      double difference = std::abs(got[size_t(i * Dv + d)] - want[size_t(i * Dv + d)]);
      worst = std::max(worst, std::isfinite(difference) ? difference / seen : INFINITY);
    }
  }
  return worst;
}

TEST_F(ConvBasisCudaRange, ValuesFarApartAreAccurate) {
  for (uint64_t kind = 0; kind < 5; ++kind)
    for (int64_t T : {100, 333, 900})
      for (bool causal : {true, false}) {
        if (kind == 2 && !causal) continue;  // each row sees the largest: what is small is lost in f32
        Tensor q = normal({1, T, 1, 8}, 1, causal ? 3 : 1), k = normal({1, T, 1, 8}, 2, 1),
               v = normal({1, T, 1, 6}, 3, 1);
        core::HostRandom random(7, kind);
        for (int64_t i = 0; i < T; ++i) {
          double row = std::pow(10.0, 60 * random.uniform() - 30);
          for (int64_t d = 0; d < 6; ++d) {
            float& e = v.data<float>()[i * 6 + d];
            if (kind == 1) e *= 1e30f;
            if (kind == 2) e *= float(row);                         // from row to row
            if (kind == 3) e *= d % 2 ? 1e-30f : 1e30f;             // from channel to channel
            if (kind == 4) e = 3e37f * std::tanh(e);                // nearly all there is
            if (kind == 0 && i == T / 2) e = d % 2 ? 1e30f : 1.0f;  // one row
          }
        }
        EXPECT_LT(error(q, k, v, {.k = 5, .causal = causal}), 1e-4) << kind << " " << T << " " << causal;
        EXPECT_LT(error(q, k, v, {.k = 5, .causal = causal, .window = 3}), 1e-4) << kind << " " << T << " " << causal;
      }
}

TEST_F(ConvBasisCudaRange, ALaterHugeValueDoesNotReachEarlierRows) {
  Tensor zero = Tensor::zeros({1, 200, 1, 2}, DType::f32).to(core::cuda());
  for (int64_t t : {5, 63, 100, 199}) {
    Tensor v = Tensor::from(std::vector<float>(600, 1.0f), {1, 200, 1, 3});
    for (int64_t d = 0; d < 3; ++d) v.data<float>()[t * 3 + d] = 1e30f;
    auto y = conv_basis_attention(Var(zero), Var(zero), Var(v.to(core::cuda())), {.k = 3}).value().to_vector<double>();
    for (int64_t i = 0; i < t * 3; ++i) ASSERT_NEAR(y[size_t(i)], 1, 1e-4) << t << " " << i / 3;
  }
}

// Channels of the gradient far apart: each channel of dv beside its own largest.
TEST_F(ConvBasisCudaRange, GradientsFarApartAreAccurate) {
  int64_t T = 500;
  Tensor q = normal({1, T, 1, 8}, 1, 1), k = normal({1, T, 1, 8}, 2, 1), v = normal({1, T, 1, 4}, 3, 1),
         dout = normal({1, T, 1, 4}, 4, 1);
  for (int64_t i = 0; i < T * 4; ++i) dout.data<float>()[i] *= i % 2 ? 1e-12f : 1.0f;
  auto gradient = [&](Device device, DType dtype) {
    auto at = [&](const Tensor& x) { return x.to(dtype).to(device); };
    Var value(at(v), true);
    Var y = conv_basis_attention(Var(at(q)), Var(at(k)), value, {.k = 5});
    y.backward(at(dout));
    return value.grad().to_vector<double>();
  };
  auto got = gradient(core::cuda(), DType::f32), want = gradient(core::cpu, DType::f64);
  for (int64_t d = 0; d < 4; ++d) {
    double size = 0, worst = 0;
    for (int64_t i = 0; i < T; ++i) {
      size = std::max(size, std::abs(want[size_t(i * 4 + d)]));
      worst = std::max(worst, std::abs(got[size_t(i * 4 + d)] - want[size_t(i * 4 + d)]));
    }
    EXPECT_LT(worst, 1e-4 * size) << d;
  }
}

// Logits beyond the range of f32, of either sign and as differences of such: a row is still an average of values.
TEST_F(ConvBasisCudaRange, NoFiniteInputGivesNaN) {
  for (uint64_t seed = 0; seed < 60; ++seed)
    for (DType dtype : {DType::f32, DType::bf16}) {
      core::HostRandom random(37, seed);
      int64_t T = 1 + random.bits() % 700, D = 1 + random.bits() % 9, Dv = 1 + random.bits() % 9;
      ConvBasisOptions o{.k = 1 + random.bits() % 12, .causal = random.bits() % 2 == 0};
      o.window = int64_t(random.bits() % 3);
      Tensor q = normal({1, T, 1, D}, seed, 1), k = normal({1, T, 1, D}, seed + 100, 1),
             v = normal({1, T, 1, Dv}, seed + 200, seed % 2 ? 1 : 1e30).to(dtype);
      for (const Tensor& t : {q, k})
        for (int64_t i = 0; i < t.numel(); ++i) {
          float& e = t.data<float>()[i];
          e = std::copysign(float(std::pow(10.0, 38 * random.uniform())), e);
        }
      auto on = [&](const Tensor& x) { return Var(x.to(dtype).to(core::cuda())); };
      auto values = v.to_vector<double>();
      std::vector<double> seen(size_t(Dv), 0.0);
      for (size_t i = 0; i < values.size(); ++i)
        seen[i % size_t(Dv)] = std::max(seen[i % size_t(Dv)], std::abs(values[i]));
      auto check = [&](const ConvBasisOptions& options) {
        auto y = conv_basis_attention(on(q), on(k), on(v), options).value().to_vector<double>();
        for (size_t i = 0; i < y.size(); ++i)
          ASSERT_LE(std::abs(y[i]), (dtype == DType::f32 ? 1.001 : 1.01) * seen[i % size_t(Dv)])
              << seed << " row " << i / size_t(Dv);
      };
      check(o);
      o.rows = 1;  // decoding
      check(o);
    }
}

}  // namespace
}  // namespace basis::ops
