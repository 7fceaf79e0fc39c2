// Layer normalisation over the last axis (Ba et al., arXiv 1607.06450), alone and fused with the residual addition
// before it. With an order (NormAttrs) y's channels are written in it, which costs no pass of its own.
#pragma once

#include "ops/common/normed.h"

namespace basis::ops {

// x [..., C], weight [C], bias [C] or undefined -> the same shape. The variance is the biased one (divided by C).
Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps, const Tensor& order = {});

// sum = x + residual, y = layer_norm(sum): one pass over memory instead of two.
Normed add_layer_norm(const Var& x, const Var& residual, const Var& weight, const Var& bias, double eps,
                      const Tensor& order = {});

// x [N,C]; residual and sum may be undefined (together), and order. mean, rstd [N] in f32 (f64 for f64).
inline constinit KernelTable<void(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                                  const NormAttrs&, const Tensor& y, const Tensor& sum, const Tensor& mean,
                                  const Tensor& rstd)>
    layer_norm_forward{"layer_norm"};
// dx = gradient through the normalisation, plus `dsum` when defined. dweight, dbias [C], f32 (f64 for f64), may be
// undefined.
inline constinit KernelTable<void(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                                  const Tensor& dy, const Tensor& dsum, const Tensor& order, const Tensor& dx,
                                  const Tensor& dweight, const Tensor& dbias)>
    layer_norm_backward{"layer_norm backward"};

}  // namespace basis::ops
