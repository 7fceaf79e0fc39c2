// One projection onto heads, dense or in the form of Basis Decomposition.
#pragma once

#include "models/layers.h"
#include "ops/bd_linear/bd_linear.h"

namespace basis::models {

// Dense: x W^T. BD: x[S] + x[R] C for each head, S at the front or the back of the channels. Then the bias, if any.
class Projection : public Module {
 public:
  struct Sizes {
    int64_t channels, heads, head_dim;
  };
  Projection(const Sizes& s, bool bd, bool slice_at_back, bool bias, double init_std) : bd_(bd) {
    options_ = {s.head_dim, slice_at_back};
    int64_t out = s.heads * s.head_dim, in = bd ? s.channels - s.head_dim : s.channels;
    parameter(weight_, "weight", {out, in}, Init::normal(init_std));
    if (bias) parameter(bias_, "bias", {out}, Init::zeros());
  }
  Var operator()(const Pass& pass, const Var& x) const;  // [..., channels] -> [..., heads * head_dim]
  bool dense() const { return !bd_; }
  const Var& weight() const { return weight_; }
  const Var& bias() const { return bias_; }

 private:
  bool bd_;
  ops::BdOptions options_;
  Var weight_;  // [heads * head_dim, channels], or [heads * head_dim, channels - head_dim]
  Var bias_;    // [heads * head_dim], or undefined
};

}  // namespace basis::models
