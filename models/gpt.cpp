#include "models/gpt.h"

#include "autograd/recompute.h"
#include "models/family.h"
#include "ops/embedding/embedding.h"

namespace basis::models {

Block::Block(const configs::ModelConfig& c, int layer)
    : dropout_(c.dropout),
      attention_norm_(norm_type(c), c.d_model, has_bias(c), c.norm_eps),
      mlp_norm_(norm_type(c), c.d_model, has_bias(c), c.norm_eps),
      attention_(make_projector(c, layer), make_mixer(c, layer, true),
                 latent_attention(c) ? std::nullopt : rope_options(c), layer),
      mlp_(mlp_options(c)) {
  child("attention_norm", attention_norm_);
  child("attention", attention_);
  child("mlp_norm", mlp_norm_);
  child("mlp", mlp_);
}

Stream Block::operator()(const Pass& pass, const Stream& in) const {
  Tensor order = attention_.wanted_order(pass, in.residual),
         mlp_order = mlp_.wanted_order();  // the norms write in them
  auto [a, x] = in.branch ? attention_norm_.add(pass, in.branch, in.residual, order)
                          : ops::Normed{attention_norm_(pass, in.residual, order), in.residual};  // [B,T,C]
  Var attended = dropout(pass, attention_(pass, a, order), dropout_);
  auto [m, y] = mlp_norm_.add(pass, attended, x, mlp_order);
  return {y, dropout(pass, mlp_(pass, m, mlp_order), dropout_)};
}

Gpt::Gpt(const configs::ModelConfig& c) : Model(c), norm_(norm_type(c), c.d_model, has_bias(c), c.norm_eps) {
  parameter(tokens_, "tokens", {c.vocab_size, c.d_model}, Init::normal(c.init_std));
  if (!rope_options(c)) parameter(positions_, "positions", {c.max_seq_len, c.d_model}, Init::normal(c.init_std));
  for (int i = 0; i < c.n_layer; ++i) {
    blocks_.push_back(std::make_unique<Block>(c, i));
    child("layers/" + std::to_string(i), *blocks_.back());
  }
  child("norm", norm_);
  if (!ties_embeddings(c)) parameter(untied_, "head", {c.vocab_size, c.d_model}, Init::normal(c.init_std));
}

Head Gpt::head(const Pass& pass, const Tensor& ids, const Tensor&) const {
  Var tokens = operand(pass, tokens_), positions = operand(pass, positions_);
  Var x = positions ? ops::embedding(tokens, ids, positions, pass.first_position()) : ops::embedding(tokens, ids);
  Stream stream{dropout(pass, x, config_.dropout), {}};  // [B,T,C]
  for (const auto& block : blocks_) {
    if (!pass.recompute) {
      stream = (*block)(pass, stream);
      continue;
    }
    auto run = [&pass, &block](const std::vector<Var>& in) {
      Stream out = (*block)(pass, {in[0], in[1]});
      return std::vector<Var>{out.residual, out.branch};
    };
    auto out = autograd::recompute(run, {stream.residual, stream.branch}, pass.random);
    stream = {out[0], out[1]};
  }
  Var y = norm_.add(pass, stream.branch, stream.residual).y;
  return {y, untied_ ? operand(pass, untied_) : tokens, {}};
}

}  // namespace basis::models
