// What one forward pass carries besides activations.
#pragma once

#include <cstdint>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

namespace basis::models {

// Keys and values of the positions generated so far, one entry per layer: [B, S, H_kv, D]. Grows by doubling.
struct KeyValueCache {
  struct Layer {
    core::Tensor k, v;  // capacity [B, capacity, H_kv, D]
    core::Tensor q;     // [B, capacity, H, D], where the mixer asks for earlier queries
  };
  std::vector<Layer> layers;
  int64_t length = 0;  // positions held by every layer before this pass
};

struct Pass {
  bool training = false;                   // dropout on
  core::DType compute = core::DType::f32;  // dtype of activations and of the weights as used
  core::Generator* random = nullptr;       // needed when training with dropout
  bool recompute = false;                  // activation checkpointing, one block at a time
  KeyValueCache* cache = nullptr;          // generation
  core::Tensor key_lengths;                // [B] i32, encoder: tokens before padding; undefined: all
  int64_t first_position() const { return cache ? cache->length : 0; }
};

}  // namespace basis::models
