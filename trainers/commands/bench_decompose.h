// basis bench decompose: Basis Decomposition of random attention weights, without files.
#pragma once

#include "core/device.h"

namespace basis::trainers {

// Of K and V of every layer: heads x head_dim columns over `width` channels. The default is DeepSeek-V2-Lite's shape.
struct DecomposeBench {
  int64_t layers = 27, heads = 16, head_dim = 128, width = 512;
  core::Device device = core::cpu;  // a GPU: both it and the CPU
  bool json = false;
};

// Prints by choice of the basis the seconds that choosing the rows and factoring in f64 take over all layers, from
// weights on the host to factors on the host, of a second call and of the first, which loads libraries and takes
// memory; the worst condition number; and how many of the layers' bases are those of the CPU.
void bench_decompose(const DecomposeBench& o);

}  // namespace basis::trainers
