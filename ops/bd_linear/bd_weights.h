// The projections of a BD layer as dense weights in the channel order of x, written anew for each pass: where heads are
// narrow against the model, this costs less than reordering x and adding its slice in passes of their own.
#pragma once

#include "ops/bd_linear/bd_linear.h"

namespace basis::ops {

// Where the stored weight of a projection has its identity: nowhere (it is dense), on the first or the last channels.
enum class BdSlice : uint8_t { none, front, back };

struct BdWeightsOptions {
  int64_t head_dim = 0;  // dh of k and v
  BdSlice k = BdSlice::none, v = BdSlice::none;
  Tensor order;  // [d] i32 on the weights' device, a permutation: stored channel j is x's order[j]; undefined: the same
  BdWeightsOptions to(Device device) const { return {head_dim, k, v, order ? order.to(device) : order}; }
};

struct BdWeights {
  std::vector<Var> weights, biases;  // of q, k, v for linear_group: [out, d] and [out], one after the other
};

// q [Hq, d]; k, v [H dh, d], or C [H dh, d - dh] under a slice; biases [out] or undefined. Throws core::Error for other
// shapes. The weights' gradients may be f32 where they are 16-bit. A missing bias is zero and has no gradient, or
// undefined where all three are missing.
BdWeights bd_weights(const std::vector<Var>& weights, const std::vector<Var>& biases, const BdWeightsOptions& options);

// Whether a pass over x [..., d] is faster this way: on GPUs, for many rows and heads of at most an eighth of x.
// bd_path forces it either way.
bool bd_weights_pay(const Var& x, int64_t head_dim, int64_t out);

// Kernel. stored[i] [out_i, d or d - dh], written[i] [out_i, d], i = q, k, v; an undefined pair is left out. Forward:
// fills `written`, and the biases' copies (or zeros) [out_i] where those are defined. Inverse: fills `stored` from
// `written`, what is the identity's left out.
struct BdWeightsArguments {
  std::array<Tensor, 3> stored, written, bias, bias_copy;
};
inline constinit KernelTable<void(const BdWeightsArguments&, const BdWeightsOptions&, bool inverse)> bd_weights_kernel{
    "bd_weights"};

inline BdSlice bd_slice_of(const BdWeightsOptions& o, size_t i) { return i == 0 ? BdSlice::none : i == 1 ? o.k : o.v; }

}  // namespace basis::ops
