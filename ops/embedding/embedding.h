// Token and position embedding.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// table [V,C], ids [...] i32 -> [..., C]: rows of the table. Ids must lie in [0, V): the CPU kernel checks and throws,
// the CUDA kernel does not (the data loader range-checks every id on the host).
Var embedding(const Var& table, const Tensor& ids);

// ids [B,T], positions [P,C]: table[ids[b,t]] + positions[first_position + t].
Var embedding(const Var& table, const Tensor& ids, const Var& positions, int64_t first_position = 0);

// y [N,C]; `positions` may be undefined; row n has position first + n % T.
inline constinit KernelTable<void(const Tensor& table, const Tensor& ids, const Tensor& positions, int64_t first,
                                  int64_t T, const Tensor& y)>
    embedding_forward{"embedding"};
// dtable [V,C] and dpositions [P,C]: overwritten, either may be undefined.
inline constinit KernelTable<void(const Tensor& dy, const Tensor& ids, int64_t first, int64_t T, const Tensor& dtable,
                                  const Tensor& dpositions)>
    embedding_backward{"embedding backward"};

}  // namespace basis::ops
