// The sum over rows that gradients of biases and broadcast inputs need. Registered in ops/linear.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// out [C] = column sums of x [N, C]; summed in f32 (f64 for f64), in an order that does not depend on the threads. On
// CUDA out may be f32 where x is bf16 or f16.
inline constinit KernelTable<void(const Tensor& x, const Tensor& out)> column_sum{"column sum"};

}  // namespace basis::ops
