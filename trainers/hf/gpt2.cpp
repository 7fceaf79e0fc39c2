// GPT-2: Conv1D stores weights [in, out]; c_attn holds q, k and v side by side; the head is the token embedding.
#include <fmt/format.h>

#include "models/family.h"
#include "trainers/hf/family.h"

namespace basis::trainers::hf {
namespace {

configs::ModelConfig read(const ConfigReader& c) {
  configs::ModelConfig m;
  m.family = "gpt2";
  m.n_layer = c.integer("n_layer"), m.n_head = c.integer("n_head"), m.d_model = c.integer("n_embd");
  m.d_ff = c.integer("n_inner", 4 * m.d_model);
  m.vocab_size = c.integer("vocab_size"), m.max_seq_len = c.integer("n_positions", c.integer("n_ctx", 1024));
  m.dropout = c.number("resid_pdrop", 0.1);
  m.norm_eps = c.number("layer_norm_epsilon", 1e-5);
  m.init_std = c.number("initializer_range", 0.02);
  m.activation = read_activation(c, "activation_function", "gelu_new");
  m.tie_embeddings = c.boolean("tie_word_embeddings", true);
  c.require(c.boolean("scale_attn_weights", true), "scale_attn_weights", "true");
  c.require(!c.boolean("scale_attn_by_inverse_layer_idx", false), "scale_attn_by_inverse_layer_idx", "false");
  c.require(!c.boolean("add_cross_attention", false), "add_cross_attention", "false");
  return m;
}

void write(const configs::ModelConfig& m, nlohmann::ordered_json& j) {
  j["n_layer"] = m.n_layer, j["n_head"] = m.n_head, j["n_embd"] = m.d_model;
  j["n_inner"] = nullptr;
  if (models::mlp_width(m) != 4 * m.d_model) j["n_inner"] = models::mlp_width(m);
  j["vocab_size"] = m.vocab_size, j["n_positions"] = m.max_seq_len;
  for (const char* key : {"resid_pdrop", "embd_pdrop", "attn_pdrop"})
    if (!j.contains(key)) j[key] = m.dropout;
  j["layer_norm_epsilon"] = m.norm_eps;
  j["initializer_range"] = m.init_std;
  j["activation_function"] = activation_name(m.activation == "auto" ? "gelu_tanh" : m.activation);
  j["tie_word_embeddings"] = models::ties_embeddings(m);
}

std::vector<TensorRule> tensors(const configs::ModelConfig& m) {
  std::vector<TensorRule> rules = {{.path = "tokens", .name = "transformer.wte.weight"},
                                   {.path = "positions", .name = "transformer.wpe.weight"}};
  for (int64_t i = 0; i < m.n_layer; ++i) {
    std::string ours = fmt::format("layers/{}/", i), theirs = fmt::format("transformer.h.{}.", i);
    add_linear(rules, ours + "attention_norm", theirs + "ln_1", true);
    for (int64_t part = 0; const char* name : {"q", "k", "v"}) {
      TensorRule rule{.stride = 3 * m.d_model, .first = part++ * m.d_model, .rows = m.d_model};
      rule.path = ours + "attention/" + name + "/weight", rule.name = theirs + "attn.c_attn.weight";
      rule.transposed = true;
      rules.push_back(rule);
      rule.path = ours + "attention/" + name + "/bias", rule.name = theirs + "attn.c_attn.bias";
      rule.transposed = false;
      rules.push_back(rule);
    }
    add_linear(rules, ours + "attention/out", theirs + "attn.c_proj", true, true);
    add_linear(rules, ours + "mlp_norm", theirs + "ln_2", true);
    add_linear(rules, ours + "mlp/up", theirs + "mlp.c_fc", true, true);
    add_linear(rules, ours + "mlp/down", theirs + "mlp.c_proj", true, true);
  }
  add_linear(rules, "norm", "transformer.ln_f", true);
  if (!models::ties_embeddings(m)) rules.push_back({.path = "head", .name = "lm_head.weight"});
  return rules;
}

}  // namespace

const Family gpt2 = {.model_type = "gpt2",
                     .architecture = "GPT2LMHeadModel",
                     .prefix = "transformer.",
                     .config_family = "gpt2",
                     .projector = "dense",
                     .read = read,
                     .write = write,
                     .tensors = tensors,
                     .buffers = {".attn.bias", ".attn.masked_bias"},
                     .ties = {{"lm_head.weight", "transformer.wte.weight"}}};

}  // namespace basis::trainers::hf
