// Another order of the channels: y[..., j] = x[..., order[j]].
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// x [..., C], order [C] i32 on x's device, a permutation of 0 .. C-1 (checked where it is made, not here; on CUDA other
// indices are undefined) -> y [..., C].
Var permute_channels(const Var& x, const Tensor& order);

// from [n, C] -> to [n, C]: to[:, j] = from[:, order[j]], or with `inverse` to[:, order[j]] = from[:, j].
inline constinit KernelTable<void(const Tensor& from, const Tensor& order, bool inverse, const Tensor& to)>
    permute_channels_kernel{"permute_channels"};

}  // namespace basis::ops
