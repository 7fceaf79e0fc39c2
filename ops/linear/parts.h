// What the affine maps of this folder are made of.
#pragma once

#include "core/basic/basic.h"
#include "core/gemm/gemm.h"
#include "ops/linear/linear.h"

namespace basis::ops::affine {

// f32, or f64 for f64: what gradients of weights and biases are summed in and leave in, as the masters of 16-bit
// weights want them.
inline DType wide(DType t) { return t == DType::f64 ? t : DType::f32; }

inline Tensor rows(const Tensor& t) {
  int64_t c = t.size(-1), n = 1;
  for (int i = 0; i + 1 < t.dim(); ++i) n *= t.size(i);
  return t.view({n, c});
}

inline Shape with_last(const Tensor& t, int64_t last) {
  Shape shape = t.shape();
  shape[t.dim() - 1] = last;
  return shape;
}

inline void check(const Tensor& x, const Tensor& w, const Tensor& b, std::string_view name) {
  require_float(x, name);
  require(w.defined() && w.dim() == 2 && x.dim() >= 1 && x.size(-1) == w.size(1) && w.dtype() == x.dtype(), name,
          "x [..., in] and weight [out, in] of one dtype", describe(x) + " and " + describe(w));
  if (b) require_shape(b, {w.size(0)}, x, name);
}

// x W^T + b
inline Tensor product(const Tensor& x, const Tensor& w, const Tensor& b) {
  Tensor y = Tensor::empty(with_last(x, w.size(0)), x.dtype(), x.device());
  core::matmul(rows(x), false, w, true, rows(y), 0, b);
  return y;
}

// dx (+)= dy W
inline void add_input_gradient(const Tensor& dy, const Tensor& w, Tensor& dx) {
  bool first = !dx;
  if (first) dx = Tensor::empty(with_last(dy, w.size(1)), dy.dtype(), dy.device());
  core::matmul(rows(dy), false, w, false, rows(dx), first ? 0 : 1);
}

// dy^T x
inline Tensor weight_gradient(const Tensor& dy, const Tensor& x) {
  Tensor dw = Tensor::empty({dy.size(-1), x.size(-1)}, wide(dy.dtype()), dy.device());
  core::matmul(rows(dy), true, rows(x), false, dw);
  return dw;
}

// The distance in elements from each tensor to the next where they are alike and lie in one block at equal distances,
// so that one batched product can take them all; else 0.
template <size_t N>
int64_t spacing(const std::array<Tensor, N>& ts) {
  int64_t bytes = 0;
  for (size_t i = 0; i < N; ++i) {
    if (!ts[i] || !(ts[i].shape() == ts[0].shape()) || !ts[i].is_contiguous()) return 0;
    if (i == 0) continue;
    if (!ts[i].shares_memory_with(ts[0])) return 0;
    int64_t step = static_cast<const char*>(ts[i].raw()) - static_cast<const char*>(ts[i - 1].raw());
    if (step < ts[0].bytes() || (i > 1 && step != bytes)) return 0;
    bytes = step;
  }
  int64_t size = core::size_of(ts[0].dtype());
  return bytes % size ? 0 : bytes / size;
}

// N tensors that lie one after the other.
template <size_t N>
std::array<Tensor, N> adjacent(const Shape& shape, DType dtype, Device device) {
  Tensor all = Tensor::empty({int64_t(N) * shape.numel()}, dtype, device);
  std::array<Tensor, N> ts;
  for (size_t i = 0; i < N; ++i)
    ts[i] = all.slice(0, int64_t(i) * shape.numel(), int64_t(i + 1) * shape.numel()).view(shape);
  return ts;
}

inline Tensor bias_gradient(const Tensor& dy) {
  Tensor db = Tensor::empty({dy.size(-1)}, wide(dy.dtype()), dy.device());
  if (dy.numel())
    column_sum(dy.device().type, dy.dtype(), rows(dy), db);
  else
    core::fill(db, 0);
  return db;
}

}  // namespace basis::ops::affine
