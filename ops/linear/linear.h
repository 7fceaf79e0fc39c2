// The affine map of every projection.
#pragma once

#include "ops/common/check.h"
#include "ops/common/column_sum.h"

namespace basis::ops {

// y = x W^T + b: x [..., in], weight [out, in], bias [out] or undefined -> y [..., out]. One float dtype for all.
Var linear(const Var& x, const Var& weight, const Var& bias = {});

}  // namespace basis::ops
