// What a training step will cost, before anything is allocated.
#pragma once

#include <cstdint>

#include "configs/train_config.h"
#include "core/device.h"
#include "models/model.h"

namespace basis::trainers {

struct StepEstimate {
  int64_t parameters = 0, trained = 0;
  double state_bytes = 0;  // weights, gradients and the optimizer's state
  double activation_bytes =
      0;                  // of one micro-batch, from the widths of the layers; attention's own scratch is left out
  double operations = 0;  // of one step: 6 for each weight and token
};

// `config` with its vocab_size, `model` built by it and frozen by it; no values are read.
StepEstimate estimate_step(const configs::Config& config, const models::Model& model);

// On the CPU. Throws core::Error (runtime) when the state alone exceeds the machine's memory: the system would end the
// process without a word. Warns when state and activations together do, and when a step takes minutes.
void check_estimate(const StepEstimate& estimate, core::Device device);

}  // namespace basis::trainers
