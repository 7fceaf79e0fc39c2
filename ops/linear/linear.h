// The affine map of every projection.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// y = x W^T + b: x [..., in], weight [out, in], bias [out] or undefined -> y [..., out]. One float dtype for all.
Var linear(const Var& x, const Var& weight, const Var& bias = {});

// out [C] = column sums of x [N, C]; summed in f32 (f64 for f64), in an order that does not depend on the threads.
inline constinit KernelTable<void(const Tensor& x, const Tensor& out)> column_sum{"column sum"};

}  // namespace basis::ops
