// A language model as the trainer sees it: token ids in, logits or a loss out.
#pragma once

#include <memory>

#include "configs/model_config.h"
#include "models/module.h"
#include "models/pass.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace basis::models {

// The last affine map, not yet applied: logits = x weight^T + bias.
struct Head {
  Var x;       // [B,T,C]
  Var weight;  // [V,C]
  Var bias;    // [V], or undefined
};

class Model : public Module {
 public:
  // ids [B,T] i32 on the model's device. `types` [B,T] i32: token types, encoders only.
  virtual Head head(const Pass& pass, const Tensor& ids, const Tensor& types = {}) const = 0;

  Var logits(const Pass& pass, const Tensor& ids, const Tensor& types = {}) const;  // [B,T,V]
  // scale * sum of the losses of targets [B*T] i32 other than ignore_index, shape []; the logits in chunks of rows as
  // model.head_chunk says.
  Var loss(const Pass& pass, const Tensor& ids, const Tensor& targets, int32_t ignore_index, double scale) const;
  // The sum of the losses, and how many of the targets have the largest logit.
  ops::TargetScore score(const Pass& pass, const Tensor& ids, const Tensor& targets, int32_t ignore_index) const;
  const configs::ModelConfig& config() const { return config_; }

 protected:
  explicit Model(const configs::ModelConfig& config) : config_(config) {}
  configs::ModelConfig config_;
};

// What the logits of `rows` tokens take at once in a training step, as model.head_chunk says.
int64_t logit_bytes(const configs::ModelConfig& config, int64_t rows, DType dtype, bool gpu);

// Builds the family that the config names; vocab_size must be set. Throws core::Error (usage) for what cannot be built.
std::unique_ptr<Model> make_model(const configs::ModelConfig& config);

}  // namespace basis::models
