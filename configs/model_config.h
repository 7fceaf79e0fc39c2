// What a model is made of.
#pragma once

#include "configs/fields.h"

namespace basis::configs {

// Bounds beyond any model that fits a machine; sizes made of them stay within 64 bits, token ids within 32.
constexpr double kWidest = 1 << 20, kMostTokens = 2147483647;

struct ProjectorConfig {
  std::string type = "dense", basis = "pivoted", qk_slice = "front", vo_slice = "back", init = "direct";
  bool qk = true, vo = true;
  int64_t q_rank = 0, k_rank = 0, v_rank = 0, out_rank = 0;
  std::string form = "factors";
  bool permuted() const { return type == "bd" && basis == "pivoted"; }
  bool operator==(const ProjectorConfig&) const = default;
  static auto fields() {
    using P = ProjectorConfig;
    return std::tuple{
        field("type", &P::type, "how q, k, v and the output are made from x; bd: Basis Decomposition",
              "dense|bd|low_rank"),
        field("qk", &P::qk, "bd: decompose the key projection (not under rotary positions)"),
        field("vo", &P::vo, "bd: decompose the value projection"),
        field("basis", &P::basis, "bd: how convert chose the rows; pivoted: by an order of the channels saved beside",
              "pivoted|residual_min|first|last"),
        field("qk_slice", &P::qk_slice, "bd: the channels all key heads share", "front|back"),
        field("vo_slice", &P::vo_slice, "bd: the channels all value heads share", "front|back"),
        field(
            "init", &P::init,
            "bd: a new model draws C itself, or starts as a dense one re-gauged: the same function, which trains worse",
            "direct|converted"),
        field("q_rank", &P::q_rank, "low_rank: of the query weights; 0: they stay dense", at_least(0)),
        field("k_rank", &P::k_rank, "low_rank: of the key weights", at_least(0)),
        field("v_rank", &P::v_rank, "low_rank: of the value weights", at_least(0)),
        field("out_rank", &P::out_rank, "low_rank: of the output weights", at_least(0)),
        field("form", &P::form, "low_rank: two factors, or their Basis Decomposition with rank^2 fewer numbers",
              "factors|bd")};
  }
};

struct MlpConfig {
  int64_t up_rank = 0, down_rank = 0;
  std::string form = "factors";
  static auto fields() {
    return std::tuple{
        field("up_rank", &MlpConfig::up_rank, "of the weights into the hidden channels; 0: dense", at_least(0)),
        field("down_rank", &MlpConfig::down_rank, "of the weights out of them; 0: dense", at_least(0)),
        field("form", &MlpConfig::form, "two factors, or their Basis Decomposition", "factors|bd")};
  }
};

struct MixerConfig {
  std::string type = "fused";
  int64_t window = 0, sink = 0, k = 16;
  std::string tile = "auto", breakpoints = "uniform", gradient = "exact";
  std::vector<double> positions;
  int64_t probe = 8, burst = 0;
  double delta = 1, epsilon = 0;
  std::string features = "elu", mask = "all";
  int64_t degree = 2, rank = 128, group = 0;
  std::string reference = "naive", candidate = "fused";
  static auto fields() {
    return std::tuple{
        field("type", &MixerConfig::type, "how values are mixed over time",
              "naive|fused|window|conv_basis|low_rank|long_lora|check"),
        field("window", &MixerConfig::window,
              "keys a query sees, counted back from itself (window, low_rank); those scored exactly (conv_basis)",
              at_least(0)),
        field("sink", &MixerConfig::sink, "first keys that stay visible (window)", at_least(0)),
        field("k", &MixerConfig::k, "segments: a breakpoint every max_seq_len / k positions (conv_basis)", at_least(1)),
        field("tile", &MixerConfig::tile, "positions of an FFT tile (conv_basis)",
              "auto|8|16|32|64|128|256|512|1024|2048|4096"),
        field("breakpoints", &MixerConfig::breakpoints,
              "uniform; staggered from head to head; learned, where a score of the key says so; where probes of the "
              "logits change (recover, arXiv 2405.05219); or given as `positions` (conv_basis)",
              "uniform|staggered|learned|recover|given"),
        field("positions", &MixerConfig::positions, "breakpoints, ascending from 0; k is their number (given)"),
        field("burst", &MixerConfig::burst, "of the k breakpoints, those that may come at once (learned)", at_least(0)),
        field("gradient", &MixerConfig::gradient,
              "that of the approximate forward, or for study the paper's approximation of softmax attention's "
              "(conv_basis)",
              "exact|paper"),
        field("probe", &MixerConfig::probe, "diagonal entries that recover compares: the paper's T", at_least(1)),
        field("delta", &MixerConfig::delta, "least l1 difference of a new segment (recover)", at_least(1e-9)),
        field("epsilon", &MixerConfig::epsilon, "distance from a k-conv matrix, at most delta / (5 probe) (recover)",
              at_least(0)),
        field("features", &MixerConfig::features,
              "of queries and keys: elu + 1, Taylor's polynomial of exp, or positive random ones (low_rank)",
              "elu|taylor|random"),
        field("degree", &MixerConfig::degree, "of the polynomial; 2 makes about head_dim^2 / 2 features (taylor)",
              Range{1, 2}),
        field("rank", &MixerConfig::rank, "random features (random)", at_least(1)),
        field("mask", &MixerConfig::mask, "keys a query sees: all, the last `window`, or those of its group (low_rank)",
              "all|window|long_lora"),
        field("group", &MixerConfig::group,
              "positions that see each other; half of the heads have groups moved by half of it (long_lora)",
              at_least(0)),
        field("reference", &MixerConfig::reference, "mixer that check compares with",
              "naive|fused|window|conv_basis|low_rank|long_lora"),
        field("candidate", &MixerConfig::candidate, "mixer that check compares and returns",
              "naive|fused|window|conv_basis|low_rank|long_lora")};
  }
};

struct AttentionConfig {
  ProjectorConfig projector;
  MixerConfig mixer;
  static auto fields() {
    return std::tuple{field("projector", &AttentionConfig::projector, ""), field("mixer", &AttentionConfig::mixer, "")};
  }
};

struct ModelConfig {
  std::string family = "gpt2";
  int64_t n_layer = 12, n_head = 12, n_kv_head = 0, head_dim = 0, d_model = 768, d_ff = 0;
  int64_t vocab_size = 0, max_seq_len = 1024, type_vocab_size = 0;
  double dropout = 0, norm_eps = 1e-5, init_std = 0.02, rope_theta = 10000;
  int64_t kv_lora_rank = 0, q_lora_rank = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  double rope_scale = 1;
  std::string rope_layout = "half", activation = "auto", head_chunk = "auto";
  bool mlp_epilogue = false;
  std::optional<bool> tie_embeddings, bias;
  AttentionConfig attention;
  MlpConfig mlp;
  std::map<int64_t, AttentionConfig> layers;

  const AttentionConfig& layer_defaults() const { return attention; }
  const AttentionConfig& attention_of(int64_t layer) const {
    auto it = layers.find(layer);
    return it == layers.end() ? attention : it->second;
  }
  int64_t kv_heads() const { return n_kv_head ? n_kv_head : n_head; }
  int64_t head_width() const { return head_dim ? head_dim : d_model / n_head; }
  int64_t latent_width() const { return kv_lora_rank ? kv_lora_rank : 4 * head_width(); }
  int64_t rope_width() const { return qk_rope_head_dim ? qk_rope_head_dim : (head_width() / 2 + 1) / 2 * 2; }
  int64_t value_width() const { return v_head_dim ? v_head_dim : head_width(); }

  static auto fields() {
    using M = ModelConfig;
    return std::tuple{
        field("family", &M::family,
              "gpt2: LayerNorm, GELU, learned positions; llama: RMSNorm, SwiGLU, RoPE; bert: encoder, post-norm; "
              "deepseek_v2: llama with multi-head latent attention",
              "gpt2|llama|bert|deepseek_v2"),
        field("n_layer", &M::n_layer, "blocks", Range{1, 100000}),
        field("n_head", &M::n_head, "query heads", Range{1, kWidest}),
        field("n_kv_head", &M::n_kv_head, "key and value heads; 0: n_head", Range{0, kWidest}),
        field("head_dim", &M::head_dim, "channels of a head; 0: d_model / n_head", Range{0, kWidest}),
        field("kv_lora_rank", &M::kv_lora_rank, "deepseek_v2: channels of the latent; 0: 4 head_dim",
              Range{0, kWidest}),
        field("q_lora_rank", &M::q_lora_rank, "deepseek_v2: channels of the queries' latent; 0: none",
              Range{0, kWidest}),
        field("qk_rope_head_dim", &M::qk_rope_head_dim,
              "deepseek_v2: rotated channels of a head, beside its head_dim; 0: half as many", Range{0, kWidest}),
        field("v_head_dim", &M::v_head_dim, "deepseek_v2: channels of a head's values; 0: head_dim", Range{0, kWidest}),
        field("d_model", &M::d_model, "channels of the residual stream", Range{1, kWidest}),
        field("d_ff", &M::d_ff,
              "hidden channels of the MLP; 0: 4 d_model (gpt2, bert), 8/3 d_model rounded up to 64 (llama)",
              Range{0, 16 * kWidest}),
        field("vocab_size", &M::vocab_size, "tokens; 0: the tokenizer's", Range{0, kMostTokens}),
        field("max_seq_len", &M::max_seq_len, "longest sequence", Range{1, kMostTokens}),
        field("type_vocab_size", &M::type_vocab_size, "token types (bert)", Range{0, kMostTokens}),
        field("dropout", &M::dropout, "on embeddings, attention probabilities and branches", probability()),
        field("norm_eps", &M::norm_eps, "added to the variance", Range{0, 1}),
        field("init_std", &M::init_std, "standard deviation of initial weights", at_least(0)),
        field("rope_theta", &M::rope_theta, "base of the rotary frequencies (llama, deepseek_v2)", at_least(1)),
        field("rope_scale", &M::rope_scale,
              "position t is rotated as t * rope_scale: position interpolation (llama, deepseek_v2)", Range{1e-9, 1e9}),
        field("rope_layout", &M::rope_layout, "channels that rotate together: (i, i + D/2) or (2i, 2i + 1)",
              "half|interleaved"),
        field("activation", &M::activation, "of the MLP; auto: the family's", "auto|gelu_tanh|gelu_erf|silu|swiglu"),
        field("mlp_epilogue", &M::mlp_epilogue,
              "GELU (tanh) within the matrix products of the MLP; on an H200 two separate passes were faster"),
        field("head_chunk", &M::head_chunk,
              "rows whose logits a training step holds at once; auto: 1 GiB of them on a GPU, elsewhere all up to 4 "
              "GiB; or "
              "none"),
        field("tie_embeddings", &M::tie_embeddings, "output head = token embedding; default: the family's"),
        field("bias", &M::bias, "biases in linear and norm layers; default: the family's"),
        field("attention", &M::attention, ""),
        field("mlp", &M::mlp, ""),
        field("layers", &M::layers, "attention of single layers, over model.attention")};
  }
};

}  // namespace basis::configs
