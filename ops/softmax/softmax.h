// Softmax over the last axis.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// x [..., C] float -> y of the same shape and dtype, rows summing to 1. A row of -inf gives NaN. C >= 1.
Var softmax(const Var& x);

// y, x [rows, C]; statistics in f32 (f64 for f64).
inline constinit KernelTable<void(const Tensor& x, const Tensor& y)> softmax_forward{"softmax"};
inline constinit KernelTable<void(const Tensor& y, const Tensor& dy, const Tensor& dx)> softmax_backward{
    "softmax backward"};

}  // namespace basis::ops
