// Refines a basis of Basis Decomposition by what rounding the factors does to the product that attention uses.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace basis::core {

// weight [H dh, d] f64 (row h dh + j: column j of head h's W); partner [G H dh, n] f64: what multiplies T, queries or
// rows of the output projection, G of them for each head. With C = W T^-1 and A = T P, rounding both to relative eps
// leaves in W P an expected squared error of eps^2 / 3 times
//   E_h = sum over j of |a_j|^2 (1 + 2 |c_j|^2)      a_j: row j of A, c_j: column j of C beside the identity.
// Exchanges rows of S for channels that are `free` while the sum over heads of (E_h / |W P|^2)^2 falls, which the worst
// head rules; |a_j|^2 belongs to the channel alone, so each exchange is weighed in closed form. `kRounds` at most.
void exchange_for_error(const Tensor& weight, int64_t head_dim, const Tensor& partner, const std::vector<char>& free,
                        std::vector<int64_t>& rows);

}  // namespace basis::core
