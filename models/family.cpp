#include "models/family.h"

#include <cmath>

namespace basis::models {

using configs::ModelConfig;

namespace {

// RMSNorm, SwiGLU, rotary positions, no biases.
bool llama_like(const ModelConfig& c) { return c.family == "llama" || c.family == "deepseek_v2"; }

LatentOptions latent_options(const ModelConfig& c) {
  return {.kv_rank = c.latent_width(),
          .q_rank = c.q_lora_rank,
          .rope_dim = c.rope_width(),
          .value_dim = c.value_width(),
          .rope = *rope_options(c)};
}

}  // namespace

NormType norm_type(const ModelConfig& c) { return llama_like(c) ? NormType::rms_norm : NormType::layer_norm; }

Activation activation(const ModelConfig& c) {
  if (c.activation == "silu") return Activation::silu;
  if (c.activation == "gelu_tanh") return Activation::gelu_tanh;
  if (c.activation == "gelu_erf") return Activation::gelu_erf;
  if (c.activation == "swiglu") return Activation::swiglu;
  return llama_like(c) ? Activation::swiglu : c.family == "bert" ? Activation::gelu_erf : Activation::gelu_tanh;
}

bool has_bias(const ModelConfig& c) { return c.bias.value_or(!llama_like(c)); }
bool ties_embeddings(const ModelConfig& c) { return c.tie_embeddings.value_or(!llama_like(c)); }

int64_t mlp_width(const ModelConfig& c) {
  if (c.d_ff) return c.d_ff;
  return llama_like(c) ? (c.d_model * 8 / 3 + 63) / 64 * 64 : 4 * c.d_model;
}

// GPT-2 scales the weights that write to the residual stream by 1/sqrt(number of writes).
double output_init_std(const ModelConfig& c) {
  return c.family == "bert" ? c.init_std : c.init_std / std::sqrt(2.0 * double(c.n_layer));
}

Mlp::Options mlp_options(const ModelConfig& c) {
  return {.channels = c.d_model,
          .hidden = mlp_width(c),
          .activation = activation(c),
          .bias = has_bias(c),
          .epilogue = c.mlp_epilogue,
          .init_std = c.init_std,
          .out_init_std = output_init_std(c),
          .up_rank = {c.mlp.up_rank, c.mlp.form == "bd"},
          .down_rank = {c.mlp.down_rank, c.mlp.form == "bd"}};
}

MixerOptions mixer_options(const ModelConfig& c, int layer, bool causal) {
  const configs::MixerConfig& m = c.attention_of(layer).mixer;
  bool latent = latent_attention(c);
  return {.type = m.type,
          .causal = causal,
          .window = m.window,
          .sink = m.sink,
          .dropout = c.dropout,
          .k = m.k,
          .max_seq_len = c.max_seq_len,
          .tile = m.tile,
          .breakpoints = m.breakpoints,
          .positions = m.positions,
          .key_heads = latent ? c.n_head : c.kv_heads(),
          .key_dim = c.head_width() + (latent ? c.rope_width() : 0),
          .burst = m.burst,
          .probe = m.probe,
          .delta = m.delta,
          .epsilon = m.epsilon,
          .paper_gradient = m.gradient == "paper",
          .features = m.features,
          .mask = m.mask,
          .degree = m.degree,
          .rank = m.rank,
          .group = m.group,
          .heads = c.n_head,
          .kv_heads = latent_attention(c) ? c.n_head : c.kv_heads(),
          .reference = m.reference,
          .candidate = m.candidate};
}

std::unique_ptr<Mixer> make_mixer(const ModelConfig& c, int layer, bool causal) {
  return make_mixer(mixer_options(c, layer, causal));
}

std::unique_ptr<Projector> make_projector(const ModelConfig& c, int layer) {
  const configs::ProjectorConfig& p = c.attention_of(layer).projector;
  ProjectorOptions o{.channels = c.d_model,
                     .heads = c.n_head,
                     .kv_heads = c.kv_heads(),
                     .head_dim = c.head_width(),
                     .bias = has_bias(c),
                     .init_std = c.init_std,
                     .out_init_std = output_init_std(c)};
  if (latent_attention(c)) {
    if (p.type == "low_rank")
      throw core::Error({.where = "attention.projector.type",
                         .expected = "dense or bd",
                         .got = "low_rank under latent attention",
                         .remedy = "its keys and values are of low rank by themselves: lower kv_lora_rank",
                         .code = core::ExitCode::usage});
    if (p.type == "bd") o.bd_qk = p.qk, o.bd_vo = p.vo, o.permuted = p.permuted();
    o.qk_back = p.qk_slice == "back", o.vo_back = p.vo_slice == "back";
    return make_mla_projector(o, latent_options(c));
  }
  if (p.type == "dense") return make_dense_projector(o);
  if (p.type == "low_rank") {
    bool bd = p.form == "bd";
    o.q_rank = {p.q_rank, bd}, o.k_rank = {p.k_rank, bd}, o.v_rank = {p.v_rank, bd}, o.out_rank = {p.out_rank, bd};
    o.permuted = bd && (p.q_rank || p.k_rank || p.v_rank);
    return make_dense_projector(o);
  }
  o.rotary = rope_options(c).has_value();
  o.bd_qk = p.qk, o.bd_vo = p.vo, o.permuted = p.permuted();
  o.qk_back = p.qk_slice == "back", o.vo_back = p.vo_slice == "back";
  o.keep_key_bias = sees_key_bias(mixer_options(c, layer, true));
  return make_bd_projector(o);
}

std::optional<ops::RopeOptions> rope_options(const ModelConfig& c) {
  if (!llama_like(c)) return {};
  return ops::RopeOptions{
      .theta = c.rope_theta, .interleaved = c.rope_layout == "interleaved", .position_scale = c.rope_scale};
}

bool latent_attention(const ModelConfig& c) { return c.family == "deepseek_v2"; }

}  // namespace basis::models
