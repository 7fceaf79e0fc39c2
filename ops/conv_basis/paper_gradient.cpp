#include "ops/conv_basis/paper_gradient.h"

#include <algorithm>

#include "core/basic/basic.h"
#include "core/gemm/gemm.h"

namespace basis::ops {
namespace {

constexpr int64_t kColumns = 512;  // of one product with f

// For each of `rows`: out [m, n] = a [m, k] b [k, n], row after row.
Tensor products(const Tensor& a, const Tensor& b, int64_t rows, int64_t m, int64_t k, int64_t n, const Shape& shape) {
  Tensor out = Tensor::empty(shape, a.dtype(), a.device());
  core::gemm({.m = m,
              .n = n,
              .k = k,
              .batch = rows,
              .a = a.raw(),
              .b = b.raw(),
              .c = out.raw(),
              .lda = k,
              .ldb = n,
              .ldc = n,
              .stride_a = m * k,
              .stride_b = k * n,
              .stride_c = m * n},
             a.dtype(), a.device());
  return out;
}
// x [B,T,G,n], y [B,T,G,m]: x y^T of each row, [B,T,G,n m].
Tensor outer(const Tensor& x, const Tensor& y) {
  int64_t n = x.size(3), m = y.size(3);
  return products(x, y, x.numel() / n, n, 1, m, {x.size(0), x.size(1), x.size(2), n * m});
}
// x [B,T,G,n], y [B,T,G,n m]: of each row x^T y, [B,T,G,m].
Tensor combine(const Tensor& x, const Tensor& y) {
  int64_t n = x.size(3), m = y.size(3) / n;
  return products(x, y, x.numel() / n, 1, n, m, {x.size(0), x.size(1), x.size(2), m});
}

// f and its transpose applied to columns, with the logits of one call.
struct Matrix {
  const Tensor &q, &k, &lse, &direct;
  ConvBasisOptions options;

  // f x: x [B,T,Hkv,n] -> [B,T,H,n]
  Tensor times(const Tensor& x) const {
    Tensor out = Tensor::empty({q.size(0), q.size(1), q.size(2), x.size(3)}, q.dtype(), q.device());
    conv_basis_forward(q.device().type, q.dtype(), q, k, x, options, out, lse.empty_like(), direct.empty_like());
    return out;
  }
  // f^T x: x [B,T,H,n] -> [B,T,Hkv,n], summed over the heads of a group
  Tensor transposed_times(const Tensor& x) const {
    Tensor v = Tensor::zeros({k.size(0), k.size(1), k.size(2), x.size(3)}, q.dtype(), q.device());
    Tensor dq = q.empty_like(), dk = k.empty_like(), dv = v.empty_like();
    conv_basis_backward(q.device().type, q.dtype(), q, k, v, Tensor::zeros(x.shape(), x.dtype(), x.device()), lse,
                        direct, x, options, dq, dk, dv);
    return dv;
  }
};

}  // namespace

Tensors conv_basis_paper_gradient(const Tensor& q16, const Tensor& k16, const Tensor& v16, const Tensor& o16,
                                  const Tensor& lse, const Tensor& direct, const Tensor& dout16,
                                  const ConvBasisOptions& options) {
  DType dtype = q16.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor q = q16.to(dtype), k = k16.to(dtype), v = v16.to(dtype), dout = dout16.contiguous().to(dtype);
  ConvBasisShape n = check_conv_basis(q, k, v, options, "conv_basis_attention, the paper's gradient");
  Matrix f{q, k, lse, direct, options};
  Tensor inner = combine(dout, o16.to(dtype));  // dO . O, [B,T,H,1]
  Tensor dq = combine(inner, f.times(k)), dk = f.transposed_times(combine(inner, q));
  core::scale(dq, -n.scale), core::scale(dk, -n.scale);
  int64_t step = std::max<int64_t>(1, kColumns / std::max<int64_t>(1, n.D));
  for (int64_t c = 0; c < n.Dv; c += step) {
    int64_t end = std::min(c + step, n.Dv);
    Tensor values = v.slice(3, c, end).contiguous(), cotangents = dout.slice(3, c, end).contiguous();
    core::axpy(n.scale, combine(cotangents, f.times(outer(values, k))), dq);
    core::axpy(n.scale, combine(values, f.transposed_times(outer(cotangents, q))), dk);
  }
  Tensor dv = f.transposed_times(dout);
  return {dq.to(q16.dtype()), dk.to(q16.dtype()), dv.to(q16.dtype())};
}

}  // namespace basis::ops
