// `basis bench step`: one training step's time, tokens a second, share of the machine's arithmetic, and where the time
// goes by kind of kernel.
#pragma once

#include <nlohmann/json.hpp>

#include "configs/train_config.h"
#include "core/device.h"

namespace basis::trainers {

struct StepBench {
  configs::Config config;  // model, micro-batch, seq_len, precision
  int64_t repeats = 20;
  bool graph = true;       // recorded as a CUDA graph, where there is a GPU
  bool kernels = true;     // list kinds of kernels, where they can be told
  double peak_tflops = 0;  // of the device in this precision; 0: known for some devices
};

// One row. Throws core::Error (usage) when a graph is asked for that cannot be recorded.
nlohmann::ordered_json bench_step(const StepBench& bench, core::Device device);
// The row's "kernels" as lines of text; empty without.
std::string kernel_lines(const nlohmann::ordered_json& row);

}  // namespace basis::trainers
