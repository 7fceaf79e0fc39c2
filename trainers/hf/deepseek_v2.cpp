// DeepSeek-V2 without experts: Llama with multi-head latent attention; rotary pairs are neighbours.
#include <fmt/format.h>

#include "models/family.h"
#include "trainers/hf/family.h"

namespace basis::trainers::hf {
namespace {

configs::ModelConfig read(const ConfigReader& c) {
  configs::ModelConfig m;
  m.family = "deepseek_v2";
  m.n_layer = c.integer("num_hidden_layers"), m.n_head = c.integer("num_attention_heads");
  c.require(c.integer("num_key_value_heads", m.n_head) == m.n_head, "num_key_value_heads", "num_attention_heads");
  c.require(c.integer("n_routed_experts", 0) == 0 || c.integer("first_k_dense_replace", 0) >= m.n_layer,
            "first_k_dense_replace", fmt::format("at least num_hidden_layers {}", m.n_layer),
            "layers of experts (MoE) are not supported, only dense MLPs");
  m.d_model = c.integer("hidden_size"), m.d_ff = c.integer("intermediate_size");
  m.head_dim = c.integer("qk_nope_head_dim"), m.qk_rope_head_dim = c.integer("qk_rope_head_dim");
  m.v_head_dim = c.integer("v_head_dim");
  m.kv_lora_rank = c.integer("kv_lora_rank"), m.q_lora_rank = c.integer("q_lora_rank", 0);
  for (const char* key : {"qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"})
    c.require(c.integer(key) > 0, key, "at least 1");
  c.require(m.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", "an even number");
  m.vocab_size = c.integer("vocab_size"), m.max_seq_len = c.integer("max_position_embeddings", 2048);
  m.dropout = c.number("attention_dropout", 0);
  m.norm_eps = c.number("rms_norm_eps", 1e-6);
  m.init_std = c.number("initializer_range", 0.02);
  m.rope_theta = read_rope_theta(c);
  m.rope_layout = "interleaved";
  m.tie_embeddings = c.boolean("tie_word_embeddings", false);
  c.require(read_activation(c, "hidden_act", "silu") == "silu", "hidden_act", "silu");
  c.require(!c.boolean("attention_bias", false), "attention_bias", "false", "biases are not supported here");
  c.require(!c.boolean("mlp_bias", false), "mlp_bias", "false", "biases are not supported here");
  return m;
}

void write(const configs::ModelConfig& m, nlohmann::ordered_json& j) {
  if (m.rope_layout != "interleaved" || models::has_bias(m))
    throw core::Error({.where = "model",
                       .expected = "rope_layout: interleaved and bias: false, as DeepSeek-V2 of Hugging Face",
                       .got = fmt::format("rope_layout: {}, bias: {}", m.rope_layout, models::has_bias(m)),
                       .code = core::ExitCode::usage});
  j["num_hidden_layers"] = m.n_layer, j["num_attention_heads"] = m.n_head, j["num_key_value_heads"] = m.n_head;
  j["hidden_size"] = m.d_model, j["intermediate_size"] = models::mlp_width(m);
  j["qk_nope_head_dim"] = m.head_width(), j["qk_rope_head_dim"] = m.rope_width(), j["v_head_dim"] = m.value_width();
  j["kv_lora_rank"] = m.latent_width();
  j["q_lora_rank"] = m.q_lora_rank ? nlohmann::ordered_json(m.q_lora_rank) : nullptr;
  j["head_dim"] = m.rope_width();          // what transformers rotates
  j["first_k_dense_replace"] = m.n_layer;  // no layer of experts
  j["vocab_size"] = m.vocab_size, j["max_position_embeddings"] = m.max_seq_len;
  j["attention_dropout"] = m.dropout;
  j["rms_norm_eps"] = m.norm_eps;
  j["initializer_range"] = m.init_std;
  j["hidden_act"] = "silu";
  j["attention_bias"] = false, j["mlp_bias"] = false;
  j["tie_word_embeddings"] = models::ties_embeddings(m);
  write_rope_theta(m.rope_theta, j);
}

// Two of our weights lie in one of theirs: of each of `groups` blocks the first `a` rows and the `b` rows after them.
void add_pair(std::vector<TensorRule>& rules, const std::string& first, const std::string& second,
              const std::string& name, int64_t groups, int64_t a, int64_t b) {
  rules.push_back({first + "/weight", name + ".weight", false, groups, a + b, 0, a});
  rules.push_back({second + "/weight", name + ".weight", false, groups, a + b, a, b});
}

std::vector<TensorRule> tensors(const configs::ModelConfig& m) {
  int64_t H = m.n_head, D = m.head_width(), R = m.rope_width();
  return llama_like_tensors(m, [&](auto& rules, const std::string& at, const std::string& self) {
    if (m.q_lora_rank) {
      add_linear(rules, at + "q_latent", self + "q_a_proj", false);
      add_linear(rules, at + "q_latent/norm", self + "q_a_layernorm", false);
    }
    add_pair(rules, at + "q", at + "q_rope", self + (m.q_lora_rank ? "q_b_proj" : "q_proj"), H, D, R);
    add_pair(rules, at + "latent", at + "k_rope", self + "kv_a_proj_with_mqa", 1, m.latent_width(), R);
    add_linear(rules, at + "latent/norm", self + "kv_a_layernorm", false);
    add_pair(rules, at + "k", at + "v", self + "kv_b_proj", H, D, m.value_width());
    add_linear(rules, at + "out", self + "o_proj", false);
  });
}

}  // namespace

const Family deepseek_v2 = {.model_type = "deepseek_v2",
                            .architecture = "DeepseekV2ForCausalLM",
                            .prefix = "model.",
                            .config_family = "deepseek_v2",
                            .projector = "dense",
                            .read = read,
                            .write = write,
                            .tensors = tensors,
                            .buffers = {"rotary_emb.inv_freq"},
                            .ties = {{"lm_head.weight", "model.embed_tokens.weight"}}};

}  // namespace basis::trainers::hf
