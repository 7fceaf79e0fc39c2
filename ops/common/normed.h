// What the normalisations share.
#pragma once

#include <vector>

#include "ops/common/check.h"

namespace basis::ops {

// The result of a normalisation fused with the residual addition before it.
struct Normed {
  Var y;    // norm(sum)
  Var sum;  // x + residual: the new residual stream
};

struct NormAttrs {
  double eps = 1e-5;
  Tensor order;  // [C] i32 on x's device, a permutation: y's channel j is that of order[j]; undefined: as they are
  NormAttrs to(Device device) const { return {eps, order ? order.to(device) : order}; }
};

inline void check_order(const Tensor& order, const Tensor& x, std::string_view op) {
  if (order)
    require(order.dtype() == DType::i32 && order.dim() == 1 && order.size(0) == x.size(-1) &&
                order.device() == x.device() && order.is_contiguous(),
            op, "order [C] i32 on x's device", describe(order) + " for " + describe(x));
}

// A permutation for samples: 7 and n have no common factor.
inline Tensor some_order(int64_t n) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) order[size_t(j)] = int32_t((7 * j + 3) % n);
  return Tensor::from(order, {n});
}

// A row of y's gradient with its channels where x has them: itself, or g[order[j]] = dy[j] in `space` of C elements.
template <class T>
const T* in_channels_of_x(const T* dy, const int32_t* order, int64_t c, T* space) {
  if (!order) return dy;
  for (int64_t j = 0; j < c; ++j) space[order[j]] = dy[j];
  return space;
}

}  // namespace basis::ops
