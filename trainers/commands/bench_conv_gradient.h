// basis bench conv_gradient: conv-basis attention's two gradients against dense attention's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/device.h"

namespace basis::trainers {

struct ConvGradientBench {
  int64_t tokens = 256, heads = 4, head_dim = 32;
  std::vector<int64_t> segments;  // empty: powers of two up to `tokens`
  bool json = false;
  std::string svg;
};

// On one sequence whose q, k and v change slowly (a first-order autoregression, 0.98), in f32: by k, the relative
// distance of (dq, dk, dv) from dense softmax attention's, for the paper's gradient and for that of the approximate
// forward. Prints a table or JSON, and a plot.
void bench_conv_gradient(const ConvGradientBench& o, core::Device device);

}  // namespace basis::trainers
