// Conv-basis attention on CUDA against the CPU in f64, on the same rounded inputs, at sizes that fill its tiles.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "ops/conv_basis/conv_basis.h"

namespace basis::ops {
namespace {

Tensor random(const Shape& shape, uint64_t stream, double scale = 1) {
  core::HostRandom r(23, stream);
  std::vector<double> v(size_t(shape.numel()));
  for (double& x : v) x = scale * r.normal();
  return Tensor::from(v, shape);
}

// ||x - y|| / ||of||, of y where not given, infinite where x is not finite.
double relative(const Tensor& x, const Tensor& y, const Tensor& of = {}) {
  auto a = x.to_vector<double>(), b = y.to_vector<double>(), c = (of ? of : y).to_vector<double>();
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) error += (a[i] - b[i]) * (a[i] - b[i]), size += c[i] * c[i];
  return std::isfinite(error) ? std::sqrt(error / size) : INFINITY;
}
double largest(const Tensor& x, const Tensor& y) {
  auto a = x.to_vector<double>(), b = y.to_vector<double>();
  double error = 0;
  for (size_t i = 0; i < a.size(); ++i) error = std::max(error, std::isfinite(a[i]) ? std::abs(a[i] - b[i]) : INFINITY);
  return error;
}

struct Inputs {
  Tensor q, k, v, dout;
  Inputs to(DType t) const { return {q.to(t), k.to(t), v.to(t), dout.to(t)}; }
  Inputs to(Device d) const { return {q.to(d), k.to(d), v.to(d), dout.to(d)}; }
};
Inputs inputs(int64_t B, int64_t T, int64_t H, int64_t Hkv, int64_t D, int64_t Dv, double q_scale = 1) {
  return {random({B, T, H, D}, 1, q_scale), random({B, T, Hkv, D}, 2), random({B, T, Hkv, Dv}, 3),
          random({B, T, H, Dv}, 4)};
}

struct Results {
  Tensor o, dq, dk, dv;
};
Results evaluate(const Inputs& x, const ConvBasisOptions& o) {
  Var q(x.q, true), k(x.k, true), v(x.v, true);
  Var y = conv_basis_attention(q, k, v, o.to(x.q.device()));
  y.backward(x.dout);
  return {y.value(), q.grad(), k.grad(), v.grad()};
}

// dq and dk are the difference of two parts, from p dp and p delta, and round beside these. The first part in f64: the
// gradients with 0 for the output.
Results through_values(const Inputs& x, const ConvBasisOptions& o) {
  Tensor out = x.dout.empty_like(), lse = Tensor::empty({x.q.size(0), x.q.size(2), x.q.size(1)}, DType::f64),
         direct = Tensor::empty(lse.shape(), DType::u8);
  conv_basis_forward(DeviceType::cpu, DType::f64, x.q, x.k, x.v, o, out, lse, direct);
  Results part{Tensor::zeros(out.shape(), DType::f64), x.q.empty_like(), x.k.empty_like(), x.v.empty_like()};
  conv_basis_backward(DeviceType::cpu, DType::f64, x.q, x.k, x.v, part.o, lse, direct, x.dout, o, part.dq, part.dk,
                      part.dv);
  return part;
}

class ConvBasisCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (core::device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  }
  static void expect_near(const std::string& name, const Inputs& values, const ConvBasisOptions& o) {
    for (auto [dtype, tolerance] : {std::pair{DType::f32, 1e-5}, {DType::f16, 2e-3}, {DType::bf16, 8e-3}}) {
      Inputs x = values.to(dtype);
      Results want = evaluate(x.to(DType::f64), o), got = evaluate(x.to(core::cuda()), o);
      EXPECT_LT(relative(got.o, want.o), tolerance) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dq, want.dq), tolerance) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dk, want.dk), tolerance) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dv, want.dv), tolerance) << name << " " << int(dtype);
    }
  }
};

TEST_F(ConvBasisCuda, AgreesWithTheCpu) {
  ConvBasisOptions full{.causal = false}, window{.window = 9}, padded, uneven{.k = 7};
  padded.key_lengths = Tensor::from(std::vector<int32_t>{700, 1000}, {2});
  expect_near("causal", inputs(1, 2048, 2, 2, 64, 64), {});
  expect_near("full", inputs(1, 1000, 2, 2, 64, 64), full);
  expect_near("window", inputs(1, 1000, 2, 2, 64, 64), window);
  expect_near("padded", inputs(2, 1000, 1, 1, 64, 64), padded);
  expect_near("uneven segments", inputs(1, 1500, 1, 1, 64, 64), uneven);
  expect_near("groups, odd heads", inputs(1, 1100, 4, 2, 33, 47), {});
  expect_near("wide values", inputs(1, 900, 1, 1, 64, 128), {});
  expect_near("150 tiles", inputs(1, 1200, 1, 1, 16, 16), {.k = 5, .tile = 8});
  expect_near("long tiles", inputs(1, 5000, 1, 1, 16, 16), {.k = 2, .tile = 2048});
}

// Logits ten nats apart, so that many rows do not go through the FFT: the groups of rows, their keys in parts (few
// groups) and in one (many), segments that end inside a tile, channels that are no multiple of anything.
TEST_F(ConvBasisCuda, RowsOutsideOfTheFftAgreeWithTheCpu) {
  auto check = [](const std::string& name, Inputs values, ConvBasisOptions o) {
    for (auto [dtype, forward, backward] : {std::tuple{DType::f32, 1e-5, 1e-4}, {DType::bf16, 8e-3, 8e-3}}) {
      Inputs x = values.to(dtype), wide = x.to(DType::f64), on = x.to(core::cuda());
      double share = conv_basis_direct_share(on.q, on.k, on.v, o.to(core::cuda()));
      EXPECT_GT(share, 0.02) << name;
      EXPECT_LT(share, 0.98) << name;
      Results want = evaluate(wide, o), got = evaluate(on, o);
      EXPECT_LT(relative(got.o, want.o), forward) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dv, want.dv), forward * 10) << name << " " << int(dtype);
      Results part = dtype == DType::f32 ? want : through_values(wide, o);
      EXPECT_LT(relative(got.dq, want.dq, part.dq), backward) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dk, want.dk, part.dk), backward) << name << " " << int(dtype);
    }
  };
  ConvBasisOptions full{.causal = false}, window{.k = 5, .window = 9}, both{.k = 5, .causal = false, .window = 3},
      padded;
  padded.key_lengths = Tensor::from(std::vector<int32_t>{700, 1000}, {2});
  check("causal", inputs(1, 2048, 2, 2, 64, 64, 10), {});
  check("many heads", inputs(1, 1024, 48, 48, 16, 16, 10), {});
  check("full", inputs(1, 1000, 2, 2, 64, 64, 10), full);
  check("window", inputs(1, 1000, 2, 2, 64, 64, 10), window);
  check("full window", inputs(1, 777, 2, 1, 32, 32, 10), both);
  check("padded", inputs(2, 1000, 1, 1, 64, 64, 10), padded);
  check("uneven segments", inputs(1, 1500, 1, 1, 64, 64, 10), {.k = 7});
  check("short segments", inputs(1, 500, 1, 1, 16, 16, 10), {.k = 90, .tile = 64});
  check("groups, odd heads", inputs(1, 1100, 4, 2, 33, 47, 10), {});
  check("wide values", inputs(1, 900, 1, 1, 64, 130, 10), {});
}

// A peak of 12 nats at the first lags of each other segment: most rows of the tile behind it would not go through the
// FFT; their edges are left out of it instead. Queries of a peak are the same, so that dk sums ds over its lags, which
// is nearly 0: the parts of dk are 4 to 7 times its size. In 16 bits they differ by the rounding of the products by
// frequency to tf32, 2^-12 of a tile's root mean square where rows' masses are up to 32-fold apart.
TEST_F(ConvBasisCuda, EdgesOutsideOfTheFftAgreeWithTheCpu) {
  auto check = [](const std::string& name, int64_t H, int64_t Hkv, int64_t Dv, ConvBasisOptions o) {
    int64_t T = 2048, D = 64, segment = (T + o.k - 1) / o.k;
    Inputs values = inputs(1, T, H, Hkv, D, Dv);
    double *q = values.q.data<double>(), *k = values.k.data<double>();
    for (int64_t s = segment; s < T; s += 2 * segment)
      for (int64_t i = 0; i < 10 * H; ++i)
        for (int64_t d = 0; d < D; ++d) q[(s * H + i) * D + d] = 1.5 * k[(s * Hkv + i % H * Hkv / H) * D + d];
    for (auto [dtype, tolerance, difference] : {std::tuple{DType::f32, 2e-5, 2e-5}, {DType::f16, 3e-3, 2e-3}}) {
      Inputs x = values.to(dtype), wide = x.to(DType::f64), narrow = x.to(DType::f32), on = x.to(core::cuda());
      if (T % o.k == 0 && !o.key_lengths) {  // tiles begin where segments do
        EXPECT_LT(conv_basis_direct_share(on.q, on.k, on.v, o.to(core::cuda())),
                  conv_basis_direct_share(narrow.q, narrow.k, narrow.v, o) / 2)
            << name;
      }
      Results want = evaluate(wide, o), got = evaluate(on, o);
      Results part = dtype == DType::f32 ? want : through_values(wide, o);
      EXPECT_LT(relative(got.o, want.o), tolerance) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dq, want.dq, part.dq), difference) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dk, want.dk, part.dk), difference) << name << " " << int(dtype);
      EXPECT_LT(relative(got.dv, want.dv), tolerance) << name << " " << int(dtype);
    }
  };
  check("aligned", 2, 2, 64, {});
  check("inside tiles", 2, 2, 64, {.k = 11});
  check("groups", 4, 2, 48, {});
  check("wide values", 1, 1, 130, {});
  check("short tiles", 1, 1, 32, {.k = 16, .tile = 32});
  ConvBasisOptions padded;
  padded.key_lengths = Tensor::from(std::vector<int32_t>{1100}, {1});
  check("padded", 2, 2, 64, padded);
}

// f32 rows within 1e-4 of f64, as on the CPU (ConvBasis.IsStableInSinglePrecision).
TEST_F(ConvBasisCuda, IsStableInSinglePrecision) {
  for (int64_t T : {300, 1021, 4099})
    for (bool causal : {true, false}) {
      ConvBasisOptions o{.k = 5, .causal = causal};
      auto error = [&](const Inputs& values) {
        Inputs x = values.to(DType::f32), wide = x.to(DType::f64), on = x.to(core::cuda());
        return largest(conv_basis_attention(Var(on.q), Var(on.k), Var(on.v), o).value(),
                       conv_basis_attention(Var(wide.q), Var(wide.k), Var(wide.v), o).value());
      };
      Inputs x = inputs(1, T, 1, 1, 4, 4), flat = x, cliff = x;
      EXPECT_LT(error(x), 1e-4) << "ordinary " << T;
      EXPECT_LT(error(inputs(1, T, 1, 1, 4, 4, 10)), 1e-4) << "steep " << T;
      flat.q = Tensor::zeros(x.q.shape(), DType::f64);
      EXPECT_LT(error(flat), 1e-4) << "constant " << T;
      for (int64_t i = 0; i < T * 4; ++i)  // each other query scores 60 more
        cliff.q.data<double>()[i] = i / 4 % 2 ? 30 : 0, cliff.k.data<double>()[i] = 1;
      EXPECT_LT(error(cliff), 1e-4) << "60 nats " << T;
      if (T > 1100) continue;  // the reference is a T x T matrix
      Inputs huge = x.to(DType::f32);
      for (int64_t i = 0; i < huge.v.numel(); ++i) huge.v.data<float>()[i] = 1e37f * std::tanh(huge.v.data<float>()[i]);
      Inputs wide = huge.to(DType::f64), on = huge.to(core::cuda());
      EXPECT_LT(relative(conv_basis_attention(Var(on.q), Var(on.k), Var(on.v), o).value(),
                         conv_basis_naive(Var(wide.q), Var(wide.k), Var(wide.v), o).value()),
                1e-5)
          << "huge " << T;
    }
}

}  // namespace
}  // namespace basis::ops
