#include "models/attention/projection.h"

#include "ops/pointwise/pointwise.h"

namespace basis::models {

Var Projection::operator()(const Pass& pass, const Var& x) const {
  if (!bd_) return Linear::operator()(pass, x);
  Var y = ops::bd_linear(x, operand(pass, weight), options_);
  return bias ? ops::add(y, operand(pass, bias)) : y;
}

}  // namespace basis::models
