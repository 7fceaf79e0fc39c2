// A language model as the trainer sees it: token ids in, logits out.
#pragma once

#include <memory>

#include "configs/model_config.h"
#include "models/module.h"
#include "models/pass.h"

namespace basis::models {

class Model : public Module {
 public:
  // ids [B,T] i32 on the model's device -> logits [B,T,V]. `types` [B,T] i32: token types, encoders only.
  virtual Var logits(const Pass& pass, const Tensor& ids, const Tensor& types = {}) const = 0;
  const configs::ModelConfig& config() const { return config_; }

 protected:
  explicit Model(const configs::ModelConfig& config) : config_(config) {}
  configs::ModelConfig config_;
};

// Builds the family that the config names; vocab_size must be set. Throws core::Error (usage) for what cannot be built.
std::unique_ptr<Model> make_model(const configs::ModelConfig& config);

}  // namespace basis::models
