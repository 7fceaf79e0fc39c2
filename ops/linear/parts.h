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

inline Tensor bias_gradient(const Tensor& dy) {
  Tensor db = Tensor::empty({dy.size(-1)}, wide(dy.dtype()), dy.device());
  if (dy.numel())
    column_sum(dy.device().type, dy.dtype(), rows(dy), db);
  else
    core::fill(db, 0);
  return db;
}

}  // namespace basis::ops::affine
