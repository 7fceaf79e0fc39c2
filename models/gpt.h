// Decoder-only transformers: GPT-2 (Radford et al., 2019) and Llama (Touvron et al., arXiv 2302.13971). They differ in
// their parts, not in their shape:
//
//           norm        MLP       positions   biases   head
//   gpt2    LayerNorm   GELU      learned     yes      tied to the embedding
//   llama   RMSNorm     SwiGLU    RoPE        no       own
#pragma once

#include <memory>
#include <vector>

#include "models/attention/attention.h"
#include "models/layers.h"
#include "models/model.h"

namespace basis::models {

// The residual stream between blocks, with the last branch not yet added: x = residual + branch. The next norm adds it.
struct Stream {
  Var residual, branch;  // [B,T,C]; an undefined branch is zero
};

// x += attention(norm(x));  x += mlp(norm(x))
class Block : public Module {
 public:
  Block(const configs::ModelConfig& config, int layer);
  Stream operator()(const Pass& pass, const Stream& x) const;

 private:
  double dropout_;
  Norm attention_norm_, mlp_norm_;
  MultiHeadAttention attention_;
  Mlp mlp_;
};

class Gpt : public Model {
 public:
  explicit Gpt(const configs::ModelConfig& config);
  Head head(const Pass& pass, const Tensor& ids, const Tensor& types = {}) const override;

 private:
  Var tokens_;     // [V,C]
  Var positions_;  // [P,C], learned positions only
  Var untied_;     // [V,C], the head when it is not tokens_
  std::vector<std::unique_ptr<Block>> blocks_;
  Norm norm_;
};

}  // namespace basis::models
