// The BERT encoder with its masked-language-model head (Devlin et al., arXiv 1810.04805): post-norm, token types.
#pragma once

#include <memory>
#include <vector>

#include "models/attention/attention.h"
#include "models/layers.h"
#include "models/model.h"

namespace basis::models {

// x = norm(x + attention(x));  x = norm(x + mlp(x))
class EncoderBlock : public Module {
 public:
  EncoderBlock(const configs::ModelConfig& config, int layer);
  Var operator()(const Pass& pass, const Var& x) const;  // [B,T,C] -> [B,T,C]

 private:
  double dropout_;
  MultiHeadAttention attention_;
  Norm attention_norm_;
  Mlp mlp_;
  Norm mlp_norm_;
};

class Bert : public Model {
 public:
  explicit Bert(const configs::ModelConfig& config);
  Head head(const Pass& pass, const Tensor& ids, const Tensor& types = {}) const override;

 private:
  Var tokens_, positions_, types_;  // [V,C], [P,C], [types,C]
  Norm embedding_norm_;
  std::vector<std::unique_ptr<EncoderBlock>> blocks_;
  Linear transform_;  // the head: norm(gelu(W x)) tokens^T + bias
  Norm transform_norm_;
  Var untied_, head_bias_;  // [V,C] only when not tied, [V]
};

}  // namespace basis::models
