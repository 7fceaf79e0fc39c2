#include "models/attention/projection.h"

#include "ops/linear/linear.h"
#include "ops/pointwise/pointwise.h"

namespace basis::models {

Var Projection::operator()(const Pass& pass, const Var& x) const {
  if (!bd_) return ops::linear(x, operand(pass, weight_), operand(pass, bias_));
  Var y = ops::bd_linear(x, operand(pass, weight_), options_);
  return bias_ ? ops::add(y, operand(pass, bias_)) : y;
}

}  // namespace basis::models
