// Softmax cross-entropy with integer targets, fused: neither probabilities nor a second copy of the logits exist.
#pragma once

#include "ops/common/check.h"
#include "ops/common/sum_scaled.h"

namespace basis::ops {

struct CrossEntropyOptions {
  int32_t ignore_index = -100;  // rows with this target count nothing
  double scale = 1;             // usually 1 / (number of tokens that count)
};

// logits [N,V], targets [N] i32 in [0, V) or ignore_index -> scale * sum of (logsumexp - logit[target]), shape [].
// f32, or f64 for f64 logits. Backward writes its result over the logits when nothing else reads them.
Var cross_entropy(const Var& logits, const Tensor& targets, const CrossEntropyOptions& options = {});

// rows [N]: the loss of each row (0 where ignored); lse [N]: log-sum-exp of each row; both f32 (f64 for f64).
inline constinit KernelTable<void(const Tensor& logits, const Tensor& targets, int32_t ignore_index, const Tensor& rows,
                                  const Tensor& lse)>
    cross_entropy_forward{"cross_entropy"};
// dlogits [N,V] may be the logits themselves. dloss [] is read on the device.
inline constinit KernelTable<void(const Tensor& logits, const Tensor& targets, const Tensor& lse, const Tensor& dloss,
                                  const CrossEntropyOptions&, const Tensor& dlogits)>
    cross_entropy_backward{"cross_entropy backward"};

}  // namespace basis::ops
