// An order of channels that a checkpoint may carry: y[..., j] = x[..., order[j]].
#pragma once

#include "autograd/var.h"
#include "ops/permute_channels/permute_channels.h"

namespace basis::models {

// Converts the buffer to indices once for each value it is given (set_value), not once a forward pass; what is written
// into the same storage after the first pass is not seen.
class ChannelOrder {
 public:
  autograd::Var buffer;  // [C], whole numbers: the channel that comes j-th; undefined: they stay as they are

  autograd::Var operator()(const autograd::Var& x) const {  // [..., C] -> [..., C]
    return buffer ? ops::permute_channels(x, indices()) : x;
  }

  core::Tensor indices() const {  // [C] i32 on the buffer's device, or undefined
    if (!buffer) return {};
    const core::Tensor& value = buffer.value();
    if (!value_.defined() || value_.raw() != value.raw()) {
      value_ = value;
      indices_ = value.to(core::DType::i32);
    }
    return indices_;
  }

 private:
  mutable core::Tensor value_, indices_;  // value_ keeps its storage, so that no other value can have its address
};

}  // namespace basis::models
