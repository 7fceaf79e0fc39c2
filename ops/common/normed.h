// The result of a normalisation fused with the residual addition before it.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct Normed {
  Var y;    // norm(sum)
  Var sum;  // x + residual: the new residual stream
};

}  // namespace basis::ops
