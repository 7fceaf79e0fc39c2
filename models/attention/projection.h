// One projection onto heads, dense or in the form of Basis Decomposition.
#pragma once

#include "models/layers.h"
#include "ops/bd_linear/bd_weights.h"

namespace basis::models {

// Dense or of low rank: a linear layer. BD: x[S] + x[R] C for each head, S at the front or the back of the channels,
// then the bias, if any; its weight is [heads * head_dim, channels - head_dim].
class Projection : public Linear {
 public:
  struct Sizes {
    int64_t channels, heads, head_dim;
  };
  Projection(const Sizes& s, bool bd, bool slice_at_back, bool bias, double init_std, LowRank low = {})
      : Linear(bd ? s.channels - s.head_dim : s.channels, s.heads * s.head_dim, bias, init_std, low,
               bd ? Init::late_zeros() : Init::zeros()),
        bd_(bd),
        options_{s.head_dim, slice_at_back} {}
  Var operator()(const Pass& pass, const Var& x) const;  // [..., channels] -> [..., heads * head_dim]
  bool full() const { return !bd_ && Linear::full(); }
  ops::BdSlice slice() const {
    return !bd_ ? ops::BdSlice::none : options_.slice_at_back ? ops::BdSlice::back : ops::BdSlice::front;
  }

 private:
  bool bd_;
  ops::BdOptions options_;
};

}  // namespace basis::models
