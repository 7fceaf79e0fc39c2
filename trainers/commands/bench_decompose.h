// basis bench decompose: Basis Decomposition of random attention weights, without files.
#pragma once

#include <cstdint>

namespace basis::trainers {

// Of K and V of every layer: heads x head_dim columns over `width` channels. The default is DeepSeek-V2-Lite's shape.
struct DecomposeBench {
  int64_t layers = 27, heads = 16, head_dim = 128, width = 512;
  bool json = false;
};

// Prints by choice of the basis the seconds that choosing the rows and factoring in f64 take on the CPU over all
// layers, and the worst condition number.
void bench_decompose(const DecomposeBench& o);

}  // namespace basis::trainers
