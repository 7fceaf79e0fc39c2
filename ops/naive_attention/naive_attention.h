// Softmax attention that holds every probability: the reference for the others.
#pragma once

#include "ops/common/attention.h"

namespace basis::ops {

// See ops/common/attention.h for shapes and options. Memory O(B H T S).
Var naive_attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options = {});

// o [B,T,H,Dv]; p [B,H,T,S] in f32 (f64 for f64): probabilities before dropout, 0 where hidden.
inline constinit KernelTable<void(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions&,
                                  const Tensor& o, const Tensor& p)>
    naive_attention_forward{"naive_attention"};
// Overwrites dq, dk, dv.
inline constinit KernelTable<void(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions&,
                                  const Tensor& p, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                                  const Tensor& dv)>
    naive_attention_backward{"naive_attention backward"};

}  // namespace basis::ops
