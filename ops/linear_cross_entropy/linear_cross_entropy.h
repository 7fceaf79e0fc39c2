// The head of a language model and its loss in one: logits = x W^T + b exist for one chunk of rows at a time, so that
// memory does not grow with rows times vocabulary.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct LinearCrossEntropyOptions {
  int32_t ignore_index = -100;  // rows with this target count nothing
  double scale = 1;             // usually 1 / (number of tokens that count)
  int64_t chunk = 0;            // rows whose logits exist at once; 0: all
};

// x [..., C], weight [V, C], bias [V] or undefined, one float dtype; targets [N] i32 in [0, V) or ignore_index, one for
// each row of x -> scale * sum of (logsumexp - logit[target]), shape []; f32, or f64 for f64. The forward pass computes
// the gradients too, chunk by chunk (a backward pass would have to compute the logits again), and keeps those of x, in
// its dtype, and of weight and bias, in f32 (f64 for f64). Targets are range-checked on the CPU only.
Var linear_cross_entropy(const Var& x, const Var& weight, const Var& bias, const Tensor& targets,
                         const LinearCrossEntropyOptions& options = {});

// The same without gradients: `loss` as above; `hits` [] how many targets have the largest logit of their row (the
// first of several equal ones), in loss's dtype.
struct TargetScore {
  Tensor loss, hits;
};
TargetScore score_targets(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& targets,
                          const LinearCrossEntropyOptions& options = {});

// What is not differentiated.
struct LinearCrossEntropyAttrs {
  Tensor targets;
  LinearCrossEntropyOptions options;
  LinearCrossEntropyAttrs to(Device device) const { return {targets.to(device), options}; }
};

// logits [n,V], rows any distance apart (with the gradient, what lies between them becomes 0), overwritten by
// softmax(logits) - [v = target], 0 where ignored, when `gradient`; loss [n] and, where defined, hits [n] of each row,
// f32 (f64 for f64), 0 where ignored.
inline constinit KernelTable<void(const Tensor& logits, const Tensor& targets, int32_t ignore_index, bool gradient,
                                  const Tensor& loss, const Tensor& hits)>
    cross_entropy_chunk{"linear_cross_entropy"};
// y = factor * by * x, one dtype: `by` [] (f32, f64 for f64) is read on the device; y may be x.
inline constinit KernelTable<void(const Tensor& x, double factor, const Tensor& by, const Tensor& y)> scaled_by{
    "scaled_by"};

}  // namespace basis::ops
