// View: the same elements under another shape, without a copy.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// x of n elements -> the same memory as `shape` (n elements).
Var view(const Var& x, const Shape& shape);

}  // namespace basis::ops
