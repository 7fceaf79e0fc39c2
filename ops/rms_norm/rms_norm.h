// Root-mean-square normalisation over the last axis (Zhang & Sennrich, arXiv 1910.07467), alone and fused with the
// residual addition before it. With an order (NormAttrs) y's channels are written in it.
#pragma once

#include "ops/common/normed.h"

namespace basis::ops {

// y = x / sqrt(mean(x^2) + eps) * weight: x [..., C], weight [C].
Var rms_norm(const Var& x, const Var& weight, double eps, const Tensor& order = {});

// sum = x + residual, y = rms_norm(sum).
Normed add_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps, const Tensor& order = {});

// x [N,C]; residual and sum may be undefined (together), and order. rstd [N] in f32 (f64 for f64).
inline constinit KernelTable<void(const Tensor& x, const Tensor& residual, const Tensor& weight, const NormAttrs&,
                                  const Tensor& y, const Tensor& sum, const Tensor& rstd)>
    rms_norm_forward{"rms_norm"};
// dx = gradient through the normalisation, plus `dsum` when defined. dweight [C], f32 (f64 for f64), may be undefined.
inline constinit KernelTable<void(const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dy,
                                  const Tensor& dsum, const Tensor& order, const Tensor& dx, const Tensor& dweight)>
    rms_norm_backward{"rms_norm backward"};

}  // namespace basis::ops
