// The projection of Basis Decomposition attention (arXiv 2510.01718): every head adds the same slice of x to a narrower
// product. With x = [slice S of dh channels, rest R] (or the slice behind),
//   y[:, h] = x[:, S] + x[:, R] C_h.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct BdOptions {
  int64_t head_dim = 0;        // dh: the width of a head and of the slice
  bool slice_at_back = false;  // S is the last dh channels of x instead of the first
};

// x [..., d], weight [H dh, d - dh] (row h dh + j is column j of C_h) -> y [..., H dh]. One float dtype; halves
// accumulate in f32, add the slice there and round once.
Var bd_linear(const Var& x, const Var& weight, const BdOptions& options);

// How it runs: `fused` is the GPU's own kernel (Hopper, halves, see bd_hopper.h), `gemm` a plain product after the
// slice was written into its output, `written_out` one with [I | C] (of whole projectors, bd_weights.h, and of dx).
// `automatic` takes what is fastest; the others force a path (for benchmarks and tests), and `fused` throws core::Error
// where it cannot run.
enum class BdPath { automatic, gemm, fused, written_out };
inline constinit BdPath bd_path = BdPath::automatic;

// Kernels. x [n, d], w [H dh, d - dh], y [n, H dh]; dense.
inline constinit KernelTable<void(const Tensor& x, const BdOptions&, const Tensor& y)> bd_repeat{
    "bd_linear"};  // y[:, h] = x[:, S]
inline constinit KernelTable<void(const Tensor& dy, const BdOptions&, const Tensor& dx)> bd_sum_heads{
    "bd_linear backward"};  // dx[:, S] = sum over h of dy[:, h]; the rest of dx is left alone
// Do the whole of it in one kernel and say so, or return having done nothing. May be holes.
inline constinit KernelTable<void(const Tensor& x, const Tensor& w, const BdOptions&, const Tensor& y, bool& done)>
    bd_fused_forward{"bd_linear fused"};
inline constinit KernelTable<void(const Tensor& dy, const Tensor& w, const BdOptions&, const Tensor& dx, bool& done)>
    bd_fused_backward{"bd_linear fused backward"};

}  // namespace basis::ops
