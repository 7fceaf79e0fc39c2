// What the inputs of a model's linear layers look like on a text: for activation-weighted approximation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "models/model.h"
#include "trainers/data/tokenizer.h"

namespace basis::trainers::hf {

struct InputMoments {
  core::Tensor mean;    // [n] f64: of x
  core::Tensor square;  // [n, n] f64: of x x^T
};
using Calibration = std::map<std::string, InputMoments>;  // by the path of the layer's weight

// Runs the first `tokens` tokens of a text file, or of a shard (data/shard.h), which needs no tokenizer, through the
// model, in windows of its longest sequence. Layers that read the same input share one entry's tensors. core::Error:
// bad_file for a text that cannot be read or is shorter than one window, usage for a text without a tokenizer.
Calibration calibrate(const models::Model& model, const TokenizerPtr& tokenizer, const std::filesystem::path& text,
                      int64_t tokens);

}  // namespace basis::trainers::hf
