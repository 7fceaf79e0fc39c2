// Positions cut into groups that become batch entries, half of the heads with groups moved by half a group: LongLoRA's
// shifted sparse attention (arXiv 2309.12307) is then any attention within entries.
//
//   heads [0, H/2):  group n holds positions [n g, (n + 1) g)
//   heads [H/2, H):  group 0 holds positions [0, g/2), group n > 0 positions [n g - g/2, n g + g/2)
//
// Nothing wraps around the end, where the original puts the first positions behind the last.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// x [B,T,H,D] -> [2 B N, g, H/2, D], N = groups_of(T, g): entry (half B + b) N + n; zeros behind a group's positions.
// H and g even.
Var split_groups(const Var& x, int64_t g);
// The inverse: y [2 B N, g, H/2, D] -> [B,T,H,D].
Var join_groups(const Var& y, int64_t B, int64_t T);
// How many positions below `lengths` [B] (i32; undefined: T) each entry holds: [2 B N] i32 on `device`.
Tensor group_lengths(const Tensor& lengths, int64_t B, int64_t T, int64_t g, Device device);

inline int64_t groups_of(int64_t T, int64_t g) { return (T + g / 2 + g - 1) / g; }

// Where a group begins, and how many positions it may hold.
BASIS_HOST_DEVICE inline int64_t group_begin(bool shifted, int64_t n, int64_t g) {
  return !shifted || n == 0 ? n * g : n * g - g / 2;
}
BASIS_HOST_DEVICE inline int64_t group_size(bool shifted, int64_t n, int64_t g) {
  return shifted && n == 0 ? g / 2 : g;
}

inline constinit KernelTable<void(const Tensor& x, const Tensor& y)> split_groups_kernel{"split_groups"};
inline constinit KernelTable<void(const Tensor& y, const Tensor& x)> join_groups_kernel{"join_groups"};
inline constinit KernelTable<void(const Tensor& lengths, int64_t T, int64_t g, const Tensor& out)> group_lengths_kernel{
    "group_lengths"};

}  // namespace basis::ops
