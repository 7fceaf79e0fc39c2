// Conv-basis attention at the ends of the range of numbers: logits hundreds of nats apart, values from 1e-30 to 1e30 in
// one head. Each element is as accurate as the values that its row sees in its channel allow.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "ops/conv_basis/conv_basis.h"

namespace basis::ops {
namespace {

struct Trial {
  Tensor q, k, v;  // [1,T,1,D], [1,T,1,Dv]
  ConvBasisOptions o;
  int64_t T, D, Dv;
};

Trial draw(uint64_t seed) {
  core::HostRandom random(31, seed);
  Trial x;
  x.T = 1 + random.bits() % 300, x.D = 1 + random.bits() % 4, x.Dv = 1 + random.bits() % 4;
  x.o = {.k = 1 + random.bits() % 12, .causal = random.bits() % 2 == 0, .window = int64_t(random.bits() % 3)};
  auto normal = [&](int64_t n, double scale) {
    std::vector<double> v(static_cast<size_t>(n));
    for (double& e : v) e = scale * random.normal();
    return v;
  };
  auto q = normal(x.T * x.D, std::pow(10.0, 3 * random.uniform())), k = normal(x.T * x.D, 1);
  auto v = normal(x.T * x.Dv, 1);
  uint32_t kind = random.bits() % 4;
  for (int64_t i = 0; i < x.T; ++i) {
    double row = std::pow(10.0, 60 * random.uniform() - 30);
    for (int64_t d = 0; d < x.Dv; ++d) {
      double& e = v[size_t(i * x.Dv + d)];
      if (kind == 1) e *= 1e30;
      if (kind == 2) e *= row;                                // from row to row
      if (kind == 3) e *= d % 2 ? 1e-30 : 1e30;               // from channel to channel
      if (kind == 0 && i == x.T / 2) e = d % 2 ? 1e30 : 1.0;  // one row
    }
  }
  x.q = Tensor::from(q, {1, x.T, 1, x.D}), x.k = Tensor::from(k, {1, x.T, 1, x.D});
  x.v = Tensor::from(v, {1, x.T, 1, x.Dv});
  return x;
}

// The largest error of an element beside the largest value that its row sees in its channel.
double error(const Trial& x, DType dtype) {
  Tensor q = x.q.to(dtype), k = x.k.to(dtype), v = x.v.to(dtype);
  auto got = conv_basis_attention(Var(q), Var(k), Var(v), x.o).value().to_vector<double>();
  auto want = conv_basis_naive(Var(q.to(DType::f64)), Var(k.to(DType::f64)), Var(v.to(DType::f64)), x.o)
                  .value()
                  .to_vector<double>();
  auto values = v.to_vector<double>();
  double worst = 0;
  for (int64_t d = 0; d < x.Dv; ++d) {
    double seen = 0;
    for (int64_t i = x.o.causal ? 0 : -x.T; i < x.T; ++i) {
      seen = std::max(seen, std::abs(values[size_t((i < 0 ? i + x.T : i) * x.Dv + d)]));
      if (i < 0) continue;
      double difference = std::abs(got[size_t(i * x.Dv + d)] - want[size_t(i * x.Dv + d)]);
      worst = std::max(worst, std::isfinite(difference) ? difference / seen : INFINITY);
    }
  }
  return worst;
}

TEST(ConvBasisRange, F64HoldsFarApartLogitsAndHugeValues) {
  for (uint64_t seed = 0; seed < 400; ++seed) EXPECT_LT(error(draw(seed), DType::f64), 1e-10) << seed;
}

TEST(ConvBasisRange, ALaterHugeValueDoesNotReachEarlierRows) {
  Trial x = draw(4);
  x.T = 200, x.D = 2, x.Dv = 3, x.o = {.k = 3};
  std::vector<double> ones(600, 1.0), keys(400, 0.0);
  x.q = Tensor::from(keys, {1, 200, 1, 2}), x.k = x.q, x.v = Tensor::from(ones, {1, 200, 1, 3});
  for (int64_t t : {5, 63, 100, 199}) {
    Tensor v = x.v.clone();
    for (int64_t d = 0; d < 3; ++d) v.data<double>()[t * 3 + d] = 1e30;
    for (DType dtype : {DType::f64, DType::f32}) {
      auto y = conv_basis_attention(Var(x.q.to(dtype)), Var(x.k.to(dtype)), Var(v.to(dtype)), x.o)
                   .value()
                   .to_vector<double>();
      for (int64_t i = 0; i < t * 3; ++i) ASSERT_NEAR(y[size_t(i)], 1, 1e-4) << t << " " << i / 3;
    }
  }
}

// Logits beyond the range of the dtype, of either sign and as differences of such: a row is still an average of values.
TEST(ConvBasisRange, NoFiniteInputGivesNaN) {
  for (uint64_t seed = 0; seed < 300; ++seed)
    for (DType dtype : {DType::f32, DType::f64}) {
      Trial x = draw(seed);
      core::HostRandom random(37, seed);
      double most = dtype == DType::f32 ? 38 : 307;
      for (Tensor* t : {&x.q, &x.k})
        for (int64_t i = 0; i < t->numel(); ++i) {
          double& e = t->data<double>()[i];
          e = std::copysign(std::pow(10.0, most * random.uniform()), e);
        }
      std::vector<double> seen(size_t(x.Dv), 0.0), values = x.v.to(dtype).to_vector<double>();
      for (size_t i = 0; i < values.size(); ++i)
        seen[i % size_t(x.Dv)] = std::max(seen[i % size_t(x.Dv)], std::abs(values[i]));
      auto y = conv_basis_attention(Var(x.q.to(dtype)), Var(x.k.to(dtype)), Var(x.v.to(dtype)), x.o)
                   .value()
                   .to_vector<double>();
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_LE(std::abs(y[i]), 1.001 * seen[i % size_t(x.Dv)]) << seed << " row " << i / size_t(x.Dv);
    }
}

}  // namespace
}  // namespace basis::ops
