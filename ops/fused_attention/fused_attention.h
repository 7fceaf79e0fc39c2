// Softmax attention in tiles, with a running maximum and sum per row (FlashAttention-2, Dao, arXiv 2307.08691): no T x
// S matrix exists, and backward recomputes the probabilities from the saved log-sum-exp.
#pragma once

#include "ops/common/attention.h"

namespace basis::ops {

// See ops/common/attention.h for shapes and options. Memory O(B H T) beyond inputs and output.
Var fused_attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options = {});

// o [B,T,H,Dv]; lse [B,H,T] in f32 (f64 for f64): log of the sum of exp over visible keys, -inf where a row sees none.
inline constinit KernelTable<void(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions&,
                                  const Tensor& o, const Tensor& lse)>
    fused_attention_forward{"fused_attention"};
// Overwrites dq, dk, dv.
inline constinit KernelTable<void(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                                  const Tensor& dout, const AttentionOptions&, const Tensor& dq, const Tensor& dk,
                                  const Tensor& dv)>
    fused_attention_backward{"fused_attention backward"};

// A library's kernels, asked before the table's. Each function returns false, having done nothing, for a call that it
// does not take. Same arguments and results as above.
struct AttentionEngine {
  std::string_view name;
  bool (*forward)(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions&, const Tensor& o,
                  const Tensor& lse);
  bool (*backward)(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                   const Tensor& dout, const AttentionOptions&, const Tensor& dq, const Tensor& dk, const Tensor& dv);
};

// The engine of CUDA devices, or nullptr: cuDNN's where it is built in. Setting nullptr leaves our own kernels.
const AttentionEngine* attention_engine();
bool set_attention_engine(const AttentionEngine* engine);  // returns true so that it can initialise a static

}  // namespace basis::ops
