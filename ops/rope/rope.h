// Rotary position embedding (Su et al., arXiv 2104.09864).
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct RopeOptions {
  double theta = 10000;      // base of the frequencies theta^(-2i/R)
  bool interleaved = false;  // pairs (2i, 2i+1) as in the paper; default pairs (i, i + R/2) as in Hugging Face's Llama
  int64_t rotary_dim = 0;    // R: the first R of the D channels are rotated; 0: all
  int64_t first_position = 0;  // position of t = 0
  double position_scale = 1;   // positions are multiplied by this (linear interpolation, arXiv 2306.15595)
};

// x [B,T,H,D], D (or rotary_dim) even -> rotated by position, per pair of channels.
Var rope(const Var& x, const RopeOptions& options = {});

// direction +1 rotates, -1 rotates back.
inline constinit KernelTable<void(const Tensor& x, const RopeOptions&, int direction, const Tensor& y)> rope_kernel{
    "rope"};

}  // namespace basis::ops
