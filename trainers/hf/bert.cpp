// BERT with its masked-language-model head. The pooler and the next-sentence head are not part of it.
#include <fmt/format.h>

#include "models/family.h"
#include "trainers/hf/family.h"

namespace basis::trainers::hf {
namespace {

configs::ModelConfig read(const ConfigReader& c) {
  configs::ModelConfig m;
  m.family = "bert";
  m.n_layer = c.integer("num_hidden_layers"), m.n_head = c.integer("num_attention_heads");
  m.d_model = c.integer("hidden_size"), m.d_ff = c.integer("intermediate_size");
  m.vocab_size = c.integer("vocab_size"), m.max_seq_len = c.integer("max_position_embeddings", 512);
  m.type_vocab_size = c.integer("type_vocab_size", 2);
  m.dropout = c.number("hidden_dropout_prob", 0.1);
  m.norm_eps = c.number("layer_norm_eps", 1e-12);
  m.init_std = c.number("initializer_range", 0.02);
  m.activation = read_activation(c, "hidden_act", "gelu");
  m.tie_embeddings = c.boolean("tie_word_embeddings", true);
  c.require(m.activation == "gelu_erf", "hidden_act", "gelu");
  c.require(c.text("position_embedding_type", "absolute") == "absolute", "position_embedding_type", "absolute");
  c.require(!c.boolean("is_decoder", false), "is_decoder", "false");
  c.require(!c.boolean("add_cross_attention", false), "add_cross_attention", "false");
  return m;
}

void write(const configs::ModelConfig& m, nlohmann::ordered_json& j) {
  j["num_hidden_layers"] = m.n_layer, j["num_attention_heads"] = m.n_head, j["hidden_size"] = m.d_model;
  j["intermediate_size"] = models::mlp_width(m), j["vocab_size"] = m.vocab_size;
  j["max_position_embeddings"] = m.max_seq_len, j["type_vocab_size"] = m.type_vocab_size;
  for (const char* key : {"hidden_dropout_prob", "attention_probs_dropout_prob"})
    if (!j.contains(key)) j[key] = m.dropout;
  j["layer_norm_eps"] = m.norm_eps;
  j["initializer_range"] = m.init_std;
  j["hidden_act"] = "gelu";
  j["tie_word_embeddings"] = models::ties_embeddings(m);
}

std::vector<TensorRule> tensors(const configs::ModelConfig& m) {
  std::vector<TensorRule> rules = {{.path = "tokens", .name = "bert.embeddings.word_embeddings.weight"},
                                   {.path = "positions", .name = "bert.embeddings.position_embeddings.weight"}};
  if (m.type_vocab_size) rules.push_back({.path = "types", .name = "bert.embeddings.token_type_embeddings.weight"});
  add_linear(rules, "embedding_norm", "bert.embeddings.LayerNorm", true);
  for (int64_t i = 0; i < m.n_layer; ++i) {
    std::string ours = fmt::format("layers/{}/", i), theirs = fmt::format("bert.encoder.layer.{}.", i);
    add_linear(rules, ours + "attention/q", theirs + "attention.self.query", true);
    add_linear(rules, ours + "attention/k", theirs + "attention.self.key", true);
    add_linear(rules, ours + "attention/v", theirs + "attention.self.value", true);
    add_linear(rules, ours + "attention/out", theirs + "attention.output.dense", true);
    add_linear(rules, ours + "attention_norm", theirs + "attention.output.LayerNorm", true);
    add_linear(rules, ours + "mlp/up", theirs + "intermediate.dense", true);
    add_linear(rules, ours + "mlp/down", theirs + "output.dense", true);
    add_linear(rules, ours + "mlp_norm", theirs + "output.LayerNorm", true);
  }
  add_linear(rules, "transform", "cls.predictions.transform.dense", true);
  add_linear(rules, "transform_norm", "cls.predictions.transform.LayerNorm", true);
  rules.push_back({.path = "head_bias", .name = "cls.predictions.bias"});
  if (!models::ties_embeddings(m)) rules.push_back({.path = "head", .name = "cls.predictions.decoder.weight"});
  return rules;
}

}  // namespace

const Family bert = {.model_type = "bert",
                     .architecture = "BertForMaskedLM",
                     .prefix = "bert.",
                     .config_family = "bert",
                     .projector = "dense",
                     .read = read,
                     .write = write,
                     .tensors = tensors,
                     .buffers = {"embeddings.position_ids", "embeddings.token_type_ids"},
                     .ties = {{"cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"},
                              {"cls.predictions.decoder.bias", "cls.predictions.bias"}}};

}  // namespace basis::trainers::hf
