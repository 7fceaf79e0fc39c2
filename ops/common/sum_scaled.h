// The sum that makes one loss of the rows' losses. Registered in ops/cross_entropy.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// out [] = scale * sum of rows, in a fixed order; f32 or f64, summed in f64.
inline constinit KernelTable<void(const Tensor& rows, double scale, const Tensor& out)> sum_scaled{"sum"};

}  // namespace basis::ops
