// Conv-basis attention ("Conv-Basis: A New Paradigm for Efficient Attention Inference and Gradient Computation in
// Transformers", arXiv 2405.05219): softmax attention whose logits are piecewise Toeplitz. Time is cut at breakpoints
// 0 = s_0 < s_1 < ...; only the key columns at the breakpoints are scored, and each column of a segment is its first
// column shifted down the diagonal:
//
//   logit(i, j) = scale q[s + i - j] . k[s],   s = the last breakpoint <= j,           j <= i
//   logit(i, j) = scale q[s] . k[s + j - i],   s = the last breakpoint <= i,           j >  i  (full attention)
//   logit(i, j) = scale q[i] . k[j],                                                   |i - j| < window
//   o[i] = sum_j softmax_j(logit(i, .)) v[j]
//
// evaluated through FFTs of tiles of L positions in O(T D log L + (T/L) T D), forward and backward, without a T x T
// matrix. The gradient is the exact one of this function, or for study the paper's (paper_gradient.h); breakpoints are
// constants.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct ConvBasisOptions {
  int64_t k = 16;       // segments, uniform: a breakpoint every ceil(T / k) positions ...
  int64_t segment = 0;  // ... or, when > 0, every `segment` positions, whatever T and k are
  Tensor breakpoints;   // i32 [B,H,K], over `k` and `segment`: ascending from 0 in each row; entries >= T are unused
  bool causal = true;
  int64_t window = 0;  // pairs with |i - j| < window are scored exactly
  int64_t tile = 0;    // L, a power of two; 0: chosen by T
  double scale = 0;    // 0: 1 / sqrt(D)
  Tensor key_lengths;  // [B] i32 or undefined: keys from this index on are padding
  bool paper_gradient = false;
  int64_t rows = 0;  // > 0: only the last `rows` positions, row by row (decoding); no gradient

  ConvBasisOptions to(Device device) const {
    ConvBasisOptions o = *this;
    o.breakpoints = breakpoints.to(device);
    o.key_lengths = key_lengths.to(device);
    return o;
  }
};

// q [B,T,H,D], k [B,T,Hkv,D], v [B,T,Hkv,Dv], one float dtype; Hkv divides H -> [B,T,H,Dv] ([B,rows,H,Dv] with `rows`).
// A row that sees no key gives 0. Values agree with the definition to rounding: a row whose mass is too small beside
// its tile for the FFT is evaluated directly. Through the FFT a token moves earlier rows by rounding, on the CPU
// those of its own tile and of the two before, no more. No finite input gives an output that is not a number: a logit
// beyond the range of f32 (f64 for f64) is the nearest number within it. Throws core::Error for shapes, k < 1, a tile
// that is no power of two, and breakpoints that do not ascend (read on the CPU; unchecked on CUDA).
Var conv_basis_attention(const Var& q, const Var& k, const Var& v, const ConvBasisOptions& options = {});

// The same function from the materialised T x T matrix: the reference.
Var conv_basis_naive(const Var& q, const Var& k, const Var& v, const ConvBasisOptions& options = {});

// The share of rows (of every batch and head) that are evaluated directly: a forward, and a copy to the host.
double conv_basis_direct_share(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& options);

// The extents of one call, checked.
struct ConvBasisShape {
  int64_t B, T, H, Hkv, D, Dv, rows, segments;  // segments: breakpoints per head, unused ones included
  double scale;
};
ConvBasisShape check_conv_basis(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& o,
                                std::string_view op);
// Position of breakpoint r where breakpoints are uniform.
int64_t uniform_segment(const ConvBasisOptions& o, int64_t T);
// L for T positions in about `segments` segments.
int64_t choose_tile(const ConvBasisOptions& o, int64_t T, int64_t segments);

// o [B,rows,H,Dv]; lse [B,H,T] in f32 (f64 for f64): log of the sum of exp of a row's logits, -inf where it sees no
// key; direct [B,H,T] u8: odd for rows that do not go through the FFT; other bits are the kernel's own. lse and direct
// are written only when rows = 0.
inline constinit KernelTable<void(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions&,
                                  const Tensor& o, const Tensor& lse, const Tensor& direct)>
    conv_basis_forward{"conv_basis_attention"};
// Overwrites dq, dk, dv.
inline constinit KernelTable<void(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                                  const Tensor& direct, const Tensor& dout, const ConvBasisOptions&, const Tensor& dq,
                                  const Tensor& dk, const Tensor& dv)>
    conv_basis_backward{"conv_basis_attention backward"};

}  // namespace basis::ops
