// basis bench bd: the BD projection against the dense one it replaces.
#pragma once

#include <cstdint>

#include "core/device.h"
#include "core/dtype.h"

namespace basis::trainers {

struct BdBench {
  int64_t repeats = 20;
  bool json = false;
};

// Prints a table or JSON over fixed shapes (those of the BD paper and of GPT-2-like models; small ones on the CPU):
// forward and forward + backward of the dense projection, of BD as it runs by itself and of BD through plain products,
// and each one's ratio to the dense time beside the ideal d / (d - head_dim).
void bench_bd(const BdBench& o, core::Device device, core::DType dtype);

}  // namespace basis::trainers
