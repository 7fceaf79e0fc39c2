// Conv-basis attention as arXiv 2405.05219 writes it: a reference for the form used here.
#pragma once

#include "ops/conv_basis/conv_basis.h"

namespace basis::ops {

// The exp transform of a k-conv basis (Lemma B.16): with u_r the logits of segment r by lag and m_r = T - s_r,
//
//   exp(H) = sum_r conv(b_r, m_r),   b_r[l] = exp(u_r[l]) - exp(u_{r-1}[l]),   o = D^-1 exp(H) v
//
// by one textbook FFT product per basis; causal, uniform or given breakpoints, neither window nor padding. The
// differences cancel where neighbouring segments agree, and nothing is shifted by a maximum: for moderate logits only.
// Values on the CPU in f64; no gradient.
Tensor conv_basis_difference_form(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& options);

}  // namespace basis::ops
