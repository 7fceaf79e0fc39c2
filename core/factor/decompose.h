// Basis Decompositions of many layers at once, on the CPU's cores or batched over layers and heads on a GPU.
#pragma once

#include "core/factor/basis.h"
#include "core/kernel.h"

namespace basis::core {

struct BasisTask {
  Tensor weight;               // [H dh, d] f64 on the host, as in basis.h
  Tensor partner;              // of choose_basis, on the host; may be undefined
  std::vector<int64_t> taken;  // channels that `pivoted` leaves
};

// For each task choose_basis and decompose. A GPU computes the same as the CPU but for rounding: it chooses the same
// rows unless two are equally good in f32. What it has no kernel for (`pivoted` without a partner, projections without
// full rank) is done on the CPU. Throws what choose_basis and decompose throw.
std::vector<BasisFactors> decompose_all(const std::vector<BasisTask>& tasks, int64_t head_dim, BasisChoice choice,
                                        Device device);

// Fills factors[i], whose t and c have their shapes, of tasks that all have the shapes of the first; rows[i] are the
// rows to take, or empty: `pivoted`. What it cannot do it leaves without rows, for the CPU; a head's condition is NaN
// where f64 squares do not tell it.
using BasisRows = std::vector<std::vector<int64_t>>;
inline constinit KernelTable<void(const std::vector<BasisTask>& tasks, const BasisRows& rows, int64_t head_dim,
                                  Device device, std::vector<BasisFactors>& factors)>
    decompose_kernel{"basis decomposition"};

}  // namespace basis::core
