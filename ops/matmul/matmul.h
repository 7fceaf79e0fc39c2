// Batched matrix product.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// op(a) [..., m, k] times op(b) [..., k, n] -> [..., m, n]; equal leading axes; trans swaps the last two axes of an
// operand.
Var matmul(const Var& a, const Var& b, bool trans_a = false, bool trans_b = false);

}  // namespace basis::ops
