// Llama: RMSNorm, rotary positions (halves rotate together), grouped-query attention, SwiGLU, no biases.
#include <fmt/format.h>

#include "models/family.h"
#include "trainers/hf/family.h"

namespace basis::trainers::hf {
namespace {

configs::ModelConfig read(const ConfigReader& c) {
  configs::ModelConfig m;
  m.family = "llama";
  m.n_layer = c.integer("num_hidden_layers"), m.n_head = c.integer("num_attention_heads");
  m.n_kv_head = c.integer("num_key_value_heads", m.n_head), m.d_model = c.integer("hidden_size");
  m.head_dim = c.integer("head_dim", 0);
  m.d_ff = c.integer("intermediate_size");
  m.vocab_size = c.integer("vocab_size"), m.max_seq_len = c.integer("max_position_embeddings", 2048);
  m.dropout = c.number("attention_dropout", 0);
  m.norm_eps = c.number("rms_norm_eps", 1e-6);
  m.init_std = c.number("initializer_range", 0.02);
  m.rope_theta = read_rope_theta(c);
  m.tie_embeddings = c.boolean("tie_word_embeddings", false);
  c.require(read_activation(c, "hidden_act", "silu") == "silu", "hidden_act", "silu");
  c.require(!c.boolean("attention_bias", false), "attention_bias", "false", "biases are not supported here");
  c.require(!c.boolean("mlp_bias", false), "mlp_bias", "false", "biases are not supported here");
  return m;
}

void write(const configs::ModelConfig& m, nlohmann::ordered_json& j) {
  j["num_hidden_layers"] = m.n_layer, j["num_attention_heads"] = m.n_head, j["num_key_value_heads"] = m.kv_heads();
  j["hidden_size"] = m.d_model, j["head_dim"] = m.head_width(), j["intermediate_size"] = models::mlp_width(m);
  j["vocab_size"] = m.vocab_size, j["max_position_embeddings"] = m.max_seq_len;
  j["attention_dropout"] = m.dropout;
  j["rms_norm_eps"] = m.norm_eps;
  j["initializer_range"] = m.init_std;
  j["hidden_act"] = "silu";
  j["attention_bias"] = false, j["mlp_bias"] = false;
  j["tie_word_embeddings"] = models::ties_embeddings(m);
  write_rope_theta(m.rope_theta, j);
}

std::vector<TensorRule> tensors(const configs::ModelConfig& m) {
  return llama_like_tensors(m, [](auto& rules, const std::string& ours, const std::string& theirs) {
    for (const char* name : {"q", "k", "v"}) add_linear(rules, ours + name, theirs + name + "_proj", false);
    add_linear(rules, ours + "out", theirs + "o_proj", false);
  });
}

}  // namespace

const Family llama = {.model_type = "llama",
                      .architecture = "LlamaForCausalLM",
                      .prefix = "model.",
                      .config_family = "llama",
                      .projector = "dense",
                      .read = read,
                      .write = write,
                      .tensors = tensors,
                      .buffers = {"rotary_emb.inv_freq"},
                      .ties = {{"lm_head.weight", "model.embed_tokens.weight"}}};

}  // namespace basis::trainers::hf
