// Breakpoints where a score says so, and breakpoints that differ from head to head.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct PlaceOptions {
  int64_t k = 16;        // breakpoints, at most
  int64_t segment = 1;   // positions that allow one breakpoint more
  int64_t burst = 0;     // breakpoints allowed at once
  bool stagger = false;  // head h counts as if h segment / H positions had gone before
};

// q [B,T,H,D], of which only the extents, dtype and device matter; score [B,T,Hkv] like q, H a multiple of Hkv, or
// undefined: 0 everywhere -> i32 [B,H,k], for ConvBasisOptions: from left to right, position 0 and every position t
// whose score is at least 0 while fewer than 1 + burst + floor((t + offset) / segment) are taken; what a stretch of
// negative scores leaves is kept for later. Ascending; unused entries are T, T + 1, ... (1, 2, ... for T = 0).
//
// Whether t is a breakpoint depends on scores up to t alone, so attention stays causal, and a prefix has the
// breakpoints that it has in the whole. No gradient; no host synchronisation; O(T) per head.
// Throws core::Error for k < 1, segment < 1, burst < 0 and extents that do not agree.
Tensor place_breakpoints(const Tensor& q, const Tensor& score, const PlaceOptions& options);

inline constinit KernelTable<void(int64_t T, const Tensor& score, const PlaceOptions&, const Tensor& breakpoints)>
    place_kernel{"place_breakpoints"};

}  // namespace basis::ops
