// What conv-basis attention promises beyond its gradient: exactness, the paper's error bound, causality, stability.
#include "ops/conv_basis/conv_basis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/rng.h"
#include "ops/composite/conv_basis_difference.h"
#include "ops/conv_basis/recover.h"
#include "ops/naive_attention/naive_attention.h"

namespace basis::ops {
namespace {

using Values = std::vector<double>;

Values normal(int64_t n, uint64_t stream, double scale = 1) {
  core::HostRandom random(11, stream);
  Values v(static_cast<size_t>(n));
  for (double& x : v) x = scale * random.normal();
  return v;
}

double largest(const Values& v) {
  double m = 0;
  for (double x : v) m = std::isnan(x) ? INFINITY : std::max(m, std::abs(x));
  return m;
}
double largest_difference(const Values& a, const Values& b) {
  Values d;
  for (size_t i = 0; i < a.size(); ++i) d.push_back(a[i] - b[i]);
  return largest(d);
}

struct Inputs {
  Tensor q, k, v;
  Inputs to(DType t) const { return {q.to(t), k.to(t), v.to(t)}; }
};
Values conv(const Inputs& x, const ConvBasisOptions& o) {
  return conv_basis_attention(Var(x.q), Var(x.k), Var(x.v), o).value().to_vector<double>();
}
Values reference(const Inputs& x, const ConvBasisOptions& o) {
  return conv_basis_naive(Var(x.q), Var(x.k), Var(x.v), o).value().to_vector<double>();
}
Values dense(const Inputs& x, bool causal = true) {
  return naive_attention(Var(x.q), Var(x.k), Var(x.v), {.causal = causal}).value().to_vector<double>();
}
Inputs random_inputs(int64_t T, int64_t H, int64_t D, uint64_t stream, double q_scale = 1) {
  Shape shape{1, T, H, D};
  return {Tensor::from(normal(T * H * D, stream, q_scale), shape), Tensor::from(normal(T * H * D, stream + 1), shape),
          Tensor::from(normal(T * H * D, stream + 2), shape)};
}

std::vector<int32_t> random_breakpoints(int64_t T, int64_t count, uint64_t stream) {
  core::HostRandom random(13, stream);
  std::vector<int32_t> s{0};
  while (int64_t(s.size()) < std::min(T, count)) {
    int32_t next = int32_t(random.bits() % uint32_t(T));
    if (std::find(s.begin(), s.end(), next) == s.end()) s.push_back(next);
  }
  std::sort(s.begin(), s.end());
  return s;
}
ConvBasisOptions at(const std::vector<int32_t>& s) {
  ConvBasisOptions o;
  o.breakpoints = Tensor::from(s, {1, 1, int64_t(s.size())});
  return o;
}

// q_i . k_j = <u, R^(j-i) w_seg(j)> with rotations R: exactly Toeplitz within each segment.
Inputs k_conv_inputs(int64_t T, int64_t D, const std::vector<int32_t>& starts, uint64_t stream) {
  Values u = normal(D, stream), w = normal(D * int64_t(starts.size()), stream + 1), q, k;
  auto rotated = [&](const double* x, int64_t i, Values& out) {
    for (int64_t c = 0; c < D; c += 2) {
      double angle = double(i) * std::pow(7.0, -double(c) / double(D)), cs = std::cos(angle), sn = std::sin(angle);
      out.push_back(x[c] * cs - x[c + 1] * sn), out.push_back(x[c] * sn + x[c + 1] * cs);
    }
  };
  for (int64_t i = 0, r = 0; i < T; ++i) {
    while (r + 1 < int64_t(starts.size()) && starts[size_t(r + 1)] <= i) ++r;
    rotated(u.data(), i, q), rotated(w.data() + r * D, i, k);
  }
  Shape shape{1, T, 1, D};
  return {Tensor::from(q, shape), Tensor::from(k, shape), Tensor::from(normal(T * D, stream + 2), shape)};
}

TEST(ConvBasis, ReproducesKConvInputs) {
  for (int64_t T : {1, 2, 7, 50, 128, 333, 1000})
    for (int64_t k : {1, 3, 16}) {
      auto s = random_breakpoints(T, k, uint64_t(T * 100 + k));
      Inputs x = k_conv_inputs(T, 6, s, uint64_t(T + k));
      EXPECT_LT(largest_difference(conv(x, at(s)), dense(x)), 2e-13) << T << " " << k;
    }
}

TEST(ConvBasis, EveryColumnIsDenseAttention) {
  for (int64_t T : {1, 5, 64, 100}) {
    Inputs x = random_inputs(T, 2, 4, uint64_t(T));
    EXPECT_LT(largest_difference(conv(x, {.k = T}), dense(x)), 1e-13) << T;
    EXPECT_LT(largest_difference(conv(x, {.k = T, .causal = false}), dense(x, false)), 1e-13) << T;
    EXPECT_LT(largest_difference(conv(x, {.k = 2, .window = T}), dense(x)), 1e-13) << T;
  }
}

// ||Y - Y^||_inf <= 2 (e^{2 eps} - 1) ||V||_inf where the logits are within eps of a k-conv matrix.
TEST(ConvBasis, HoldsThePapersErrorBound) {
  double closest = 0;
  for (uint64_t trial = 0; trial < 3000; ++trial) {
    core::HostRandom random(17, trial);
    int64_t T = 1 + random.bits() % 40, D = 4;
    auto s = random_breakpoints(T, 1 + random.bits() % 6, trial);
    Inputs x = k_conv_inputs(T, D, s, 10 * trial), y = x;
    double noise = std::pow(10.0, -3 + 2.5 * random.uniform());
    Values q = x.q.to_vector<double>(), k = x.k.to_vector<double>(), n = normal(2 * T * D, 10 * trial + 5, noise);
    Values q2 = q, k2 = k;
    for (size_t i = 0; i < q.size(); ++i) q2[i] += n[i], k2[i] += n[i + q.size()];
    y.q = Tensor::from(q2, x.q.shape()), y.k = Tensor::from(k2, x.k.shape());
    double eps = 0;
    for (int64_t i = 0; i < T; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double a = 0, b = 0;
        for (int64_t d = 0; d < D; ++d)
          a += q[size_t(i * D + d)] * k[size_t(j * D + d)], b += q2[size_t(i * D + d)] * k2[size_t(j * D + d)];
        eps = std::max(eps, std::abs(a - b) / std::sqrt(double(D)));
      }
    double bound = 2 * std::expm1(2 * eps) * largest(y.v.to_vector<double>());
    double error = largest_difference(conv(y, at(s)), dense(y));
    ASSERT_LE(error, bound + 1e-12) << trial;
    closest = std::max(closest, error / bound);
  }
  EXPECT_GT(closest, 0.05) << "the test never came near the bound";
}

// Changing token t moves no earlier row: by rounding only within its tile and the two before, not a bit before those.
TEST(ConvBasis, IsCausal) {
  for (int64_t T = 1; T <= 300; ++T) {
    ConvBasisOptions o{.k = 1 + T % 7, .window = T % 5 == 0 ? 3 : 0, .tile = T < 40 ? 0 : 8 << (T % 3)};
    int64_t D = 2, t = 7919 % T, L = choose_tile(o, T, o.k), exact = (t / L - 2) * L;
    Inputs x = random_inputs(T, 1, D, uint64_t(T));
    Values before = conv(x, o);
    for (Tensor* moved : {&x.q, &x.k, &x.v}) {
      for (int64_t d = 0; d < D; ++d) moved->data<double>()[t * D + d] += 3;
      Values after = conv(x, o);
      for (int64_t i = 0; i < t * D; ++i) {
        double d = std::abs(after[size_t(i)] - before[size_t(i)]);
        ASSERT_LE(d, i / D < exact ? 0 : 2e-13) << "row " << i / D << " of " << T << " when token " << t << " moves";
      }
      bool moves = false;
      for (int64_t i = t * D; i < T * D; ++i) moves |= after[size_t(i)] != before[size_t(i)];
      EXPECT_TRUE(moves || moved == &x.q || T == 1 || (moved == &x.k && o.k < T)) << T;
      for (int64_t d = 0; d < D; ++d) moved->data<double>()[t * D + d] -= 3;
    }
  }
}

TEST(ConvBasis, IsCausalInLongSequences) {
  for (int64_t T : {1000, 4099, 20011})
    for (DType dtype : {DType::f64, DType::f32}) {
      ConvBasisOptions o{.k = 11, .window = T % 2 ? 5 : 0};
      Inputs x = random_inputs(T, 1, 2, uint64_t(T));
      Values before = conv(x.to(dtype), o);
      int64_t L = choose_tile(o, T, o.k);
      for (int64_t t : {int64_t{1}, T / 3, T - 1}) {
        Inputs moved = {x.q.clone(), x.k.clone(), x.v.clone()};
        for (Tensor* m : {&moved.q, &moved.k, &moved.v})
          for (int64_t d = 0; d < 2; ++d) m->data<double>()[t * 2 + d] += 3;
        Values after = conv(moved.to(dtype), o);
        for (int64_t i = 0; i < t * 2; ++i) {
          double allowed = i / 2 < (t / L - 2) * L ? 0 : dtype == DType::f64 ? 2e-12 : 2e-4;
          ASSERT_LE(std::abs(after[size_t(i)] - before[size_t(i)]), allowed)
              << "row " << i / 2 << " of " << T << ", token " << t;
        }
        EXPECT_NE(after[size_t(2 * T - 1)], before[size_t(2 * T - 1)]);
      }
    }
}

// f32 against f64 evaluation of the same matrix.
double f32_error(const Inputs& x, const ConvBasisOptions& o) {
  Inputs single = x.to(DType::f32);
  return largest_difference(conv(single, o), reference(single.to(DType::f64), o)) / largest(x.v.to_vector<double>());
}

TEST(ConvBasis, IsStableInSinglePrecision) {
  for (int64_t T : {17, 300, 1021, 4099})
    for (bool causal : {true, false}) {
      ConvBasisOptions o{.k = 5, .causal = causal};
      Inputs x = random_inputs(T, 1, 4, uint64_t(T));
      EXPECT_LT(f32_error(x, o), 1e-4) << "ordinary " << T;
      Inputs flat = x;
      flat.q = Tensor::zeros(x.q.shape(), DType::f64);
      EXPECT_LT(f32_error(flat, o), 1e-4) << "constant " << T;
      Inputs steep = random_inputs(T, 1, 4, uint64_t(T), 10);
      EXPECT_LT(f32_error(steep, o), 1e-4) << "steep " << T;
      if (T > 1100) continue;  // most rows are then done one by one
      Inputs cliff = x;        // each other query scores 60 more
      for (int64_t i = 0; i < T; ++i)
        for (int64_t d = 0; d < 4; ++d)
          cliff.q.data<double>()[i * 4 + d] = i % 2 ? 30 : 0, cliff.k.data<double>()[i * 4 + d] = 1;
      EXPECT_LT(f32_error(cliff, o), 1e-4) << "60 nats " << T;
    }
}

TEST(ConvBasis, SearchFindsNoInstability) {
  for (uint64_t trial = 0; trial < 400; ++trial) {
    core::HostRandom random(19, trial);
    int64_t T = 1 + random.bits() % 200, D = 1 + random.bits() % 8;
    ConvBasisOptions o{
        .k = 1 + random.bits() % 12, .causal = random.bits() % 2 == 0, .window = int64_t(random.bits() % 3)};
    Inputs x = random_inputs(T, 1, D, 100 + 3 * trial, std::pow(10.0, -2 + 3.5 * random.uniform()));
    if (trial % 4 == 1)
      for (int64_t i = 0; i < T * D; ++i) x.q.data<double>()[i] *= std::exp(3 * random.normal());
    if (trial % 4 == 2)
      for (int64_t i = 0; i < T * D; ++i) x.v.data<double>()[i] = 3e38 * std::tanh(x.v.data<double>()[i]);
    if (trial % 4 == 3)
      for (int64_t i = 0; i < T * D; ++i) x.v.data<double>()[i] *= 1e-12;
    double logit = 0;  // f32 logits themselves are off by eps times their size: not the FFT's doing
    Values q = x.q.to_vector<double>(), k = x.k.to_vector<double>();
    logit = largest(q) * largest(k) * std::sqrt(double(D));
    ASSERT_LT(f32_error(x, o), 1e-4 + 3e-7 * logit) << trial;
  }
}

TEST(ConvBasis, OrdinaryRowsGoThroughTheFft) {
  Inputs x = random_inputs(2000, 1, 16, 5).to(DType::f32);
  for (int64_t k : {1, 16}) {
    ConvBasisOptions o{.k = k};
    Tensor y = x.v.empty_like(), lse = Tensor::empty({1, 1, 2000}, DType::f32),
           direct = Tensor::empty({1, 1, 2000}, DType::u8);
    conv_basis_forward(DeviceType::cpu, DType::f32, x.q, x.k, x.v, o, y, lse, direct);
    int64_t count = 0;
    for (int64_t i = 0; i < 2000; ++i) count += direct.data<uint8_t>()[i];
    EXPECT_LT(count, 40) << k;
  }
}

TEST(ConvBasis, LastRowsAlone) {
  Inputs x = random_inputs(37, 2, 4, 3);
  for (int64_t rows : {1, 5, 37}) {
    ConvBasisOptions o{.k = 4, .window = 2};
    Values all = conv(x, o);
    o.rows = rows;
    Values last = conv(x, o);
    EXPECT_LT(largest_difference(last, Values(all.end() - int64_t(last.size()), all.end())), 1e-13) << rows;
  }
  EXPECT_THROW(conv_basis_attention(Var(x.q, true), Var(x.k), Var(x.v), {.rows = 1}), core::Error);
}

// Planted breakpoints, with columns that differ enough from one segment to the next.
TEST(ConvBasis, RecoverFindsPlantedBreakpoints) {
  for (uint64_t trial = 0; trial < 200; ++trial) {
    core::HostRandom random(23, trial);
    int64_t T = 40 + random.bits() % 400, window = 6;
    auto s = random_breakpoints(T - window, 1 + random.bits() % 8, trial);
    Inputs plain = k_conv_inputs(T, 6, {0}, 7 * trial);
    Values base = plain.k.to_vector<double>(), w = base;
    for (int64_t i = 0, r = 0; i < T; ++i) {  // segment r's keys are r + 1 times those of one Toeplitz matrix
      while (r + 1 < int64_t(s.size()) && s[size_t(r + 1)] <= i) ++r;
      for (int64_t d = 0; d < 6; ++d) w[size_t(i * 6 + d)] = double(r + 1) * base[size_t(i * 6 + d)];
    }
    Values q = plain.q.to_vector<double>();
    double delta = 0;  // the l1 norm of one segment's step
    for (int64_t l = 0; l < window; ++l) {
      double sum = 0;
      for (int64_t d = 0; d < 6; ++d) sum += q[size_t(l * 6 + d)] * base[size_t(d)];
      delta += std::abs(sum) / std::sqrt(6.0);
    }
    // Every other trial is as far from a k-conv matrix as the search's assumption allows.
    double epsilon = trial % 2 ? 0.85 * delta / double(5 * window) : 0, longest = 0;
    for (int64_t i = 0; i < T; ++i) {
      double square = 0;
      for (int64_t d = 0; d < 6; ++d) square += q[size_t(i * 6 + d)] * q[size_t(i * 6 + d)];
      longest = std::max(longest, std::sqrt(square));
    }
    Values moved = w;
    for (int64_t i = 0; i < T * 6; i += 6) {
      Values n = normal(6, 70000 + trial * 1000 + uint64_t(i / 6));
      double length = std::sqrt(std::inner_product(n.begin(), n.end(), n.begin(), 0.0));
      for (int64_t d = 0; d < 6; ++d)
        moved[size_t(i + d)] += epsilon * std::sqrt(6.0) / longest * n[size_t(d)] / length;
    }
    Tensor k = Tensor::from(moved, plain.k.shape());
    Recovered found =
        recover_breakpoints(plain.q, k, {.k = 10, .window = window, .delta = 0.9 * delta, .epsilon = epsilon});
    auto got = found.breakpoints.to_vector<int32_t>();
    got.resize(s.size() + 1);
    EXPECT_GE(got.back(), T) << trial;
    got.pop_back();
    EXPECT_EQ(got, s) << trial;
    EXPECT_EQ(found.degenerate.item(), 0) << trial;
    double bound = 2 * std::expm1(2 * epsilon) * largest(plain.v.to_vector<double>());
    EXPECT_LT(largest_difference(conv({plain.q, k, plain.v}, at(s)), dense({plain.q, k, plain.v})), 1e-12 + bound);
  }
}

// conv(b_r, m_r) of differences of exponentials, as the paper writes it, is the same function.
TEST(ConvBasis, EqualsThePapersExpTransform) {
  for (int64_t T : {1, 6, 45, 200}) {
    Inputs x = random_inputs(T, 2, 4, uint64_t(T));
    for (int64_t k : {1, 4, 9})
      EXPECT_LT(largest_difference(conv(x, {.k = k}),
                                   conv_basis_difference_form(x.q, x.k, x.v, {.k = k}).to_vector<double>()),
                1e-11)
          << T << " " << k;
    auto s = random_breakpoints(T, 5, uint64_t(T));
    Inputs one = random_inputs(T, 1, 4, uint64_t(T));
    EXPECT_LT(largest_difference(conv(one, at(s)),
                                 conv_basis_difference_form(one.q, one.k, one.v, at(s)).to_vector<double>()),
              1e-11)
        << T;
  }
}

TEST(ConvBasis, RecoverSaysWhenItsAssumptionFails) {
  Inputs x = random_inputs(300, 2, 4, 1);
  Recovered r = recover_breakpoints(x.q, x.k, {.k = 6, .window = 4, .delta = 100});
  for (double n : r.degenerate.to_vector<double>()) EXPECT_GT(n, 0);
  ConvBasisOptions o;
  o.breakpoints = recover_breakpoints(x.q, x.k, {.k = 6, .window = 4, .delta = 1}).breakpoints;
  EXPECT_LT(largest_difference(conv(x, o), reference(x, o)), 1e-12);
  EXPECT_THROW(recover_breakpoints(x.q, x.k, {.k = 0}), core::Error);
  EXPECT_THROW(recover_breakpoints(x.q, x.k, {.window = 0}), core::Error);
  EXPECT_THROW(recover_breakpoints(x.q, x.k, {.window = 4, .delta = 1, .epsilon = 0.1}), core::Error);
}

}  // namespace
}  // namespace basis::ops
