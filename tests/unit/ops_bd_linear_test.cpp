// The BD projection beside the plain one it stands for, y = x [I .. I | C]^T, in f64 on the CPU and in halves on CUDA
// through every path.
#include "ops/bd_linear/bd_linear.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "ops/linear/linear.h"

namespace basis::ops {
namespace {

struct Problem {
  int64_t rows, d, heads, dh;
  bool back;
};

Tensor random(const Shape& shape, uint64_t stream, DType dtype) {
  core::HostRandom r(11, stream);
  std::vector<double> v(size_t(shape.numel()));
  for (double& x : v) x = r.normal();
  return Tensor::from(v, shape).to(dtype);
}

// The dense weight [n, d] of the factor c [n, d - dh].
Tensor dense_weight(const Tensor& c, const Problem& p) {
  std::vector<double> factor = c.to_vector<double>(), w(size_t(p.heads * p.dh * p.d), 0.0);
  int64_t k = p.d - p.dh;
  for (int64_t j = 0; j < p.heads * p.dh; ++j) {
    w[size_t(j * p.d + (p.back ? k : 0) + j % p.dh)] = 1;
    for (int64_t i = 0; i < k; ++i) w[size_t(j * p.d + (p.back ? 0 : p.dh) + i)] = factor[size_t(j * k + i)];
  }
  return Tensor::from(w, {p.heads * p.dh, p.d});
}

struct Result {
  std::vector<double> y, dx, dc;
};

std::vector<double> on_host(const Tensor& t) { return t.to(core::cpu).to(DType::f64).to_vector<double>(); }

Result expected(const Problem& p, DType rounded) {
  Var x(random({p.rows, p.d}, 0, rounded).to(DType::f64), true);
  Tensor c = random({p.heads * p.dh, p.d - p.dh}, 1, rounded).to(DType::f64);
  Var w(dense_weight(c, p), true), y = linear(x, w);
  y.backward(random({p.rows, p.heads * p.dh}, 2, rounded).to(DType::f64));
  std::vector<double> dw = on_host(w.grad()), dc;
  for (int64_t j = 0; j < p.heads * p.dh; ++j)
    for (int64_t i = 0; i < p.d - p.dh; ++i) dc.push_back(dw[size_t(j * p.d + (p.back ? 0 : p.dh) + i)]);
  return {on_host(y.value()), on_host(x.grad()), dc};
}

Result actual(const Problem& p, DType dtype, Device device) {
  Var x(random({p.rows, p.d}, 0, dtype).to(device), true);
  Var c(random({p.heads * p.dh, p.d - p.dh}, 1, dtype).to(device), true);
  Var y = bd_linear(x, c, {.head_dim = p.dh, .slice_at_back = p.back});
  y.backward(random({p.rows, p.heads * p.dh}, 2, dtype).to(device));
  return {on_host(y.value()), on_host(x.grad()), on_host(c.grad())};
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::sqrt(difference / size);
}

void expect_close(const Result& got, const Result& want, double tolerance, const std::string& what) {
  EXPECT_LT(distance(got.y, want.y), tolerance) << what << ", y";
  EXPECT_LT(distance(got.dx, want.dx), tolerance) << what << ", dx";
  EXPECT_LT(distance(got.dc, want.dc), tolerance) << what << ", dc";
}

TEST(BdLinear, EqualsThePlainProjectionOfItsDenseWeight) {
  for (Problem p : {Problem{7, 12, 3, 4, false}, {7, 12, 3, 4, true}, {33, 80, 5, 16, true}, {1, 2, 1, 1, false}})
    for (BdPath path : {BdPath::automatic, BdPath::written_out}) {
      bd_path = path;
      expect_close(actual(p, DType::f64, core::cpu), expected(p, DType::f64), 1e-13, "f64");
    }
  bd_path = BdPath::automatic;
}

TEST(BdLinear, ForcingAMissingPathIsAnError) {
  bd_path = BdPath::fused;
  EXPECT_THROW(actual({7, 12, 3, 4, false}, DType::f64, core::cpu), core::Error);
  bd_path = BdPath::automatic;
}

TEST(BdLinear, EveryCudaPathAgrees) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  for (Problem p : {Problem{300, 192, 3, 64, false},
                    {513, 512, 5, 128, true},
                    {40, 448, 4, 64, true},
                    {257, 520, 3, 128, false},
                    {65, 50, 3, 10, true}})
    for (DType dtype : {DType::bf16, DType::f16}) {
      Result want = expected(p, dtype);
      std::string what = std::string(name_of(dtype)) + ", d " + std::to_string(p.d);
      for (BdPath path : {BdPath::automatic, BdPath::gemm, BdPath::written_out}) {
        bd_path = path;
        expect_close(actual(p, dtype, core::cuda()), want, 1.5 * core::epsilon(dtype), what);
      }
      bd_path = BdPath::automatic;
    }
}

}  // namespace
}  // namespace basis::ops
