#include "models/bert.h"

#include "autograd/recompute.h"
#include "models/family.h"
#include "ops/embedding/embedding.h"
#include "ops/pointwise/pointwise.h"

namespace basis::models {

EncoderBlock::EncoderBlock(const configs::ModelConfig& c, int layer)
    : dropout_(c.dropout),
      attention_(make_projector(c, layer), make_mixer(c, layer, false), rope_options(c), layer),
      attention_norm_(norm_type(c), c.d_model, has_bias(c), c.norm_eps),
      mlp_(mlp_options(c)),
      mlp_norm_(norm_type(c), c.d_model, has_bias(c), c.norm_eps) {
  child("attention", attention_);
  child("attention_norm", attention_norm_);
  child("mlp", mlp_);
  child("mlp_norm", mlp_norm_);
}

Var EncoderBlock::operator()(const Pass& pass, const Var& x) const {
  Var a = attention_norm_.add(pass, dropout(pass, attention_(pass, x), dropout_), x).y;
  return mlp_norm_.add(pass, dropout(pass, mlp_(pass, a), dropout_), a).y;
}

Bert::Bert(const configs::ModelConfig& c)
    : Model(c),
      embedding_norm_(norm_type(c), c.d_model, has_bias(c), c.norm_eps),
      transform_(c.d_model, c.d_model, true, c.init_std),
      transform_norm_(norm_type(c), c.d_model, has_bias(c), c.norm_eps) {
  parameter(tokens_, "tokens", {c.vocab_size, c.d_model}, Init::normal(c.init_std));
  parameter(positions_, "positions", {c.max_seq_len, c.d_model}, Init::normal(c.init_std));
  if (c.type_vocab_size) parameter(types_, "types", {c.type_vocab_size, c.d_model}, Init::normal(c.init_std));
  child("embedding_norm", embedding_norm_);
  for (int i = 0; i < c.n_layer; ++i) {
    blocks_.push_back(std::make_unique<EncoderBlock>(c, i));
    child("layers/" + std::to_string(i), *blocks_.back());
  }
  child("transform", transform_);
  child("transform_norm", transform_norm_);
  if (!ties_embeddings(c)) parameter(untied_, "head", {c.vocab_size, c.d_model}, Init::normal(c.init_std));
  parameter(head_bias_, "head_bias", {c.vocab_size}, Init::zeros());
}

Head Bert::head(const Pass& pass, const Tensor& ids, const Tensor& types) const {
  if (pass.cache)
    throw core::Error(
        {.where = "bert", .expected = "a decoder for generation", .got = "an encoder", .code = core::ExitCode::usage});
  Var tokens = operand(pass, tokens_);
  Var x = ops::embedding(tokens, ids, operand(pass, positions_));  // [B,T,C]
  if (types_) {
    Tensor segment = types ? types : Tensor::zeros(ids.shape(), core::DType::i32, ids.device());
    x = ops::add(x, ops::embedding(operand(pass, types_), segment));
  }
  x = dropout(pass, embedding_norm_(pass, x), config_.dropout);
  for (const auto& block : blocks_) {
    auto run = [&](const std::vector<Var>& in) { return std::vector<Var>{(*block)(pass, in[0])}; };
    x = pass.recompute ? autograd::recompute(run, {x}, pass.random)[0] : run({x})[0];
  }
  Var y = transform_norm_(pass, ops::gelu_erf(transform_(pass, x)));
  return {y, untied_ ? operand(pass, untied_) : tokens, operand(pass, head_bias_)};
}

}  // namespace basis::models
