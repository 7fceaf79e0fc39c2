// basis bench conv: conv-basis attention against fused attention by length.
#pragma once

#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"

namespace basis::trainers {

struct ConvBench {
  std::vector<int64_t> lengths;       // tokens; empty: powers of two that the device does in seconds
  std::vector<int64_t> segments{16};  // k
  int64_t batch = 1, heads = 12, head_dim = 64, repeats = 5, tile = 0, window = 0;
  std::vector<int64_t> ranks;  // of low-rank attention beside, features given; none: not timed
  int64_t blocks = 0;          // > 0: low-rank attention also under LongLoRA's shifted blocks of so many tokens
  int64_t fused_up_to = 0;     // longest sequence that fused attention is timed on; 0: all
  double spread = 1;           // standard deviation of the logits, in nats
  bool full = false, json = false;
  bool kernels = false;  // on a GPU: also which kernels the time goes to
  std::string svg;       // file of the plot, or empty
};

// Prints a table or JSON: forward and forward + backward in milliseconds, their growth as a fitted exponent, and the
// memory beyond inputs at the peak; for conv-basis the share of rows that do not go through the FFT.
void bench_conv(const ConvBench& o, core::Device device, core::DType dtype);

}  // namespace basis::trainers
