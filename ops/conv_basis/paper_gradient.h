// The gradient of softmax attention that "Conv-Basis" (arXiv 2405.05219, after Alman and Song, NeurIPS 2024) derives,
// with the conv-basis matrix f in the place of the softmax matrix:
//
//   dS = f o (dO V^T - diag(dO . O)),   dQ = scale dS K,   dK = scale dS^T Q,   dV = f^T dO
//
// It is the gradient of dense attention at f, not of the approximate forward, and equals it where f is exact (k = T).
#pragma once

#include "ops/conv_basis/conv_basis.h"

namespace basis::ops {

// What the forward saved, and dout [B,T,H,Dv] -> dq, dk, dv. Products with f o (dO V^T) are Dv products of f with D
// columns: O(k T D Dv log T) and memory for some of them at a time. Works in f32 where q is f16 or bf16.
Tensors conv_basis_paper_gradient(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                                  const Tensor& direct, const Tensor& dout, const ConvBasisOptions& options);

}  // namespace basis::ops
