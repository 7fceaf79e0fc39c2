// Row gate: each row times a factor of its own between 0 and 2, 1 where its score is 0.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// x [..., D] and score [...] of one float dtype -> y[i, :] = 2 sigmoid(score[i]) x[i, :].
Var row_gate(const Var& x, const Var& score);

inline constinit KernelTable<void(const Tensor& x, const Tensor& score, const Tensor& y)> row_gate_forward{"row_gate"};
// dx = 2 sigmoid(score) dy, dscore[i] = 2 sigmoid'(score[i]) sum over d of x dy.
inline constinit KernelTable<void(const Tensor& x, const Tensor& score, const Tensor& dy, const Tensor& dx,
                                  const Tensor& dscore)>
    row_gate_backward{"row_gate backward"};

}  // namespace basis::ops
