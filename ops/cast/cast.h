// Conversion between float types, differentiable: parameters are f32 masters and are used in the dtype of the pass.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// x of any float dtype -> y of `dtype`, rounded to nearest even. The gradient is cast back.
Var cast(const Var& x, DType dtype);
// The same where the result is known already: `copy` [as x], of `dtype`, on x's device.
Var cast(const Var& x, DType dtype, const Tensor& copy);

}  // namespace basis::ops
