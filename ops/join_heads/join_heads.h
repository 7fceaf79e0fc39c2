// Heads of two parts side by side; the second may be one for all heads, as the rotary key of multi-head latent
// attention is (DeepSeek-V2, arXiv 2405.04434).
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// a [..., H, N], b [..., Hb, R] with Hb = H or 1 -> y [..., H, N + R]: y[..., h, :] = (a[..., h, :], b[..., h or 0,
// :]).
Var join_heads(const Var& a, const Var& b);

// Kernels over rows of tokens: a [n, H, N], b [n, Hb, R], y [n, H, N + R]; dense.
inline constinit KernelTable<void(const Tensor& a, const Tensor& b, const Tensor& y)> join_heads_forward{"join_heads"};
// da [n, H, N], db [n, Hb, R]: dy's parts, db summed over the heads that share it. Either may be undefined.
inline constinit KernelTable<void(const Tensor& dy, const Tensor& da, const Tensor& db)> join_heads_backward{
    "join_heads backward"};

}  // namespace basis::ops
