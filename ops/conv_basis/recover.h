// Breakpoints found in the data: the search of arXiv 2405.05219 (Algorithms 2 and 3, "Recover" and "BinarySearch").
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct RecoverOptions {
  int64_t k = 16;      // breakpoints, at most
  int64_t window = 8;  // the paper's T: diagonal entries of a column that are compared
  double delta = 1;    // two neighbouring segments' columns differ by at least this, in the l1 norm over the window
  double epsilon = 0;  // the logits are within this of a k-conv matrix; at most delta / (5 window)
  double scale = 0;    // 0: 1 / sqrt(D)
};

struct Recovered {
  Tensor breakpoints;  // i32 [B,H,k], for ConvBasisOptions: ascending from 0; unused entries are T, T + 1, ...
  Tensor degenerate;   // i32 [B,H]: how many probes differed by more than 2 window epsilon and less than delta -
                      // 2 window epsilon, which no (window, delta)-non-degenerate k-conv matrix allows: 0 is a proof of
                      // nothing, but more means that the breakpoints found are not to be trusted
};

// q [B,T,H,D], k [B,T,Hkv,D] -> the columns where the first `window` entries below the diagonal change. O(k log T
// window D) per head, on the tensors' device, without waiting for it. The choice of a breakpoint looks `window`
// positions ahead. Throws core::Error for k < 1, window < 1, delta <= 0 and epsilon outside [0, delta / (5 window)].
Recovered recover_breakpoints(const Tensor& q, const Tensor& k, const RecoverOptions& options = {});

inline constinit KernelTable<void(const Tensor& q, const Tensor& k, const RecoverOptions&, const Tensor& breakpoints,
                                  const Tensor& degenerate)>
    recover_kernel{"recover_breakpoints"};

}  // namespace basis::ops
