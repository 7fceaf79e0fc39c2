// The affine map of every projection.
#pragma once

#include "ops/common/check.h"
#include "ops/common/column_sum.h"

namespace basis::ops {

// y = x W^T + b: x [..., in], weight [out, in], bias [out] or undefined -> y [..., out]. One float dtype for all.
Var linear(const Var& x, const Var& weight, const Var& bias = {});

// Two or three affine maps of one x in one op: each adds its part to x's gradient while it is multiplied, where
// separate ops would leave the sum to further passes over memory.
std::vector<Var> linear_group(const Var& x, const std::vector<Var>& weights, const std::vector<Var>& biases);

// column_sum of several tensors [N, C] of one shape at once: fewer launches. outs [C] of one dtype.
inline constinit core::KernelTable<void(const autograd::Tensors& xs, const autograd::Tensors& outs)> column_sums{
    "column sums"};

}  // namespace basis::ops
