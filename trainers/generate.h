// Text from a prompt: one token at a time, keys and values cached.
#pragma once

#include <functional>
#include <vector>

#include "models/model.h"

namespace basis::trainers {

struct GenerateOptions {
  int64_t tokens = 200;
  double temperature = 0.8;  // 0: the likeliest token
  int64_t top_k = 0;         // 0: all
  double top_p = 1;          // the likeliest tokens that hold this mass
  uint64_t seed = 1;
};

// Picks a token from logits [V] by the options; `uniform` in (0, 1).
int32_t sample_token(const std::vector<float>& logits, const GenerateOptions& options, double uniform);

// Continues `prompt` (at least one token). When the context is full the cache starts again from its newer half.
// `on_token` sees each token as it comes; false stops.
std::vector<int32_t> generate(const models::Model& model, const std::vector<int32_t>& prompt,
                              const GenerateOptions& options, core::DType compute = core::DType::f32,
                              const std::function<bool(int32_t)>& on_token = {});

}  // namespace basis::trainers
