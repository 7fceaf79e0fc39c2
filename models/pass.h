// What one forward pass carries besides activations.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "autograd/var.h"
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

// Parameters rounded to 16 bits, by the address of the value that each copies. Whoever writes a value keeps its copy
// equal to it.
using WeightCopies = std::unordered_map<const void*, core::Tensor>;

// Sees the input of each linear layer, known by its weight: calibration.
using Observer = std::function<void(const autograd::Var& weight, const autograd::Var& input)>;

// Sees what each attention mixes, after rotation, and the result: q [B,T,H,D], k and v [B,S,Hkv,D], mixed [B,T,H,D].
using MixObserver = std::function<void(int layer, const autograd::Var& q, const autograd::Var& k,
                                       const autograd::Var& v, const autograd::Var& mixed)>;

struct Pass {
  bool training = false;                   // dropout on
  core::DType compute = core::DType::f32;  // dtype of activations and of the weights as used
  core::Generator* random = nullptr;       // needed when training with dropout
  bool recompute = false;                  // activation checkpointing, one block at a time
  const WeightCopies* copies = nullptr;    // used instead of casting, where a parameter has one in `compute`
  KeyValueCache* cache = nullptr;          // generation
  core::Tensor key_lengths;                // [B] i32, encoder: tokens before padding; undefined: all
  const Observer* observe = nullptr;
  const MixObserver* observe_mix = nullptr;
  int64_t first_position() const { return cache ? cache->length : 0; }
};

}  // namespace basis::models
