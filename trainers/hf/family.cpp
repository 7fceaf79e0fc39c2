#include "trainers/hf/family.h"

#include <fmt/format.h>

#include <map>

#include "models/family.h"
#include "trainers/data/files.h"

namespace basis::trainers::hf {
namespace {

using nlohmann::json;

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> all = {&gpt2, &llama, &bert, &deepseek_v2};
  return all;
}

std::string known() {
  std::string names;
  for (const Family* f : families()) names += (names.empty() ? "" : ", ") + f->model_type;
  return names;
}

// Hugging Face name -> ours.
const std::map<std::string, std::string>& activations() {
  static const std::map<std::string, std::string> map = {{"gelu_new", "gelu_tanh"},
                                                         {"gelu_pytorch_tanh", "gelu_tanh"},
                                                         {"gelu", "gelu_erf"},
                                                         {"silu", "silu"},
                                                         {"swish", "silu"}};
  return map;
}

}  // namespace

const json* ConfigReader::find(const char* key) const {
  auto it = config_.find(key);
  return it == config_.end() || it->is_null() ? nullptr : &*it;
}

void ConfigReader::require(bool ok, const char* key, const std::string& expected, const std::string& remedy) const {
  if (ok) return;
  const json* value = find(key);
  throw bad_file(file_ + ": " + key, expected, value ? value->dump() : "nothing", remedy);
}

int64_t ConfigReader::integer(const char* key) const {
  const json* value = find(key);
  require(value && value->is_number_integer() && *value >= 0 && *value <= 1'000'000'000, key,
          "an integer in [0, 10^9]");
  return value->get<int64_t>();
}

int64_t ConfigReader::integer(const char* key, int64_t fallback) const { return find(key) ? integer(key) : fallback; }

double ConfigReader::number(const char* key, double fallback) const {
  const json* value = find(key);
  require(!value || value->is_number(), key, "a number");
  return value ? value->get<double>() : fallback;
}

bool ConfigReader::boolean(const char* key, bool fallback) const {
  const json* value = find(key);
  require(!value || value->is_boolean(), key, "true or false");
  return value ? value->get<bool>() : fallback;
}

std::string ConfigReader::text(const char* key, const std::string& fallback) const {
  const json* value = find(key);
  require(!value || value->is_string(), key, "text");
  return value ? value->get<std::string>() : fallback;
}

const Family& family_of(const json& config, const std::string& file) {
  if (!config.is_object()) throw bad_file(file, "a JSON object", "other JSON");
  std::string type = ConfigReader(config, file).text("model_type", "nothing");
  for (const Family* f : families())
    if (f->model_type == type) return *f;
  throw bad_file(file + ": model_type", known(), type, "this architecture is not supported");
}

const Family& family_of(const configs::ModelConfig& c) {
  for (const Family* f : families())
    if (f->config_family == c.family) return *f;
  throw core::Error({.where = "model.family",
                     .expected = known(),
                     .got = c.family,
                     .remedy = "Hugging Face has no such model",
                     .code = core::ExitCode::usage});
}

double read_rope_theta(const ConfigReader& c) {
  const json& j = c.root();
  auto parameters = j.find("rope_parameters");
  bool nested = parameters != j.end() && parameters->is_object();
  ConfigReader inner(nested ? *parameters : j, c.file() + (nested ? ": rope_parameters" : ""));
  auto scaling = j.find("rope_scaling");
  c.require(scaling == j.end() || scaling->is_null(), "rope_scaling", "null",
            "scaled rotary positions are not supported");
  std::string type = nested ? inner.text("rope_type", "default") : "default";
  inner.require(type == "default", "rope_type", "default", "scaled rotary positions are not supported");
  return inner.number("rope_theta", 10000);
}

void write_rope_theta(double theta, nlohmann::ordered_json& j) {
  if (!j.contains("rope_parameters") || !j["rope_parameters"].is_object())
    j["rope_parameters"] = {{"rope_type", "default"}};
  j["rope_parameters"]["rope_theta"] = theta;  // transformers 5
  j["rope_theta"] = theta;                     // transformers 4
}

std::string read_activation(const ConfigReader& c, const char* key, const std::string& fallback) {
  auto it = activations().find(c.text(key, fallback));
  c.require(it != activations().end(), key, "gelu_new, gelu_pytorch_tanh, gelu, silu or swish");
  return it->second;
}

std::string activation_name(const std::string& ours) {
  if (ours == "gelu_tanh") return "gelu_new";
  return ours == "gelu_erf" ? "gelu" : "silu";
}

void add_linear(std::vector<TensorRule>& rules, const std::string& path, const std::string& name, bool bias,
                bool transposed) {
  rules.push_back({.path = path + "/weight", .name = name + ".weight", .transposed = transposed});
  if (bias) rules.push_back({.path = path + "/bias", .name = name + ".bias"});
}

std::vector<TensorRule> llama_like_tensors(const configs::ModelConfig& m,
                                           const std::function<void(std::vector<TensorRule>&, const std::string& ours,
                                                                    const std::string& theirs)>& attention) {
  std::vector<TensorRule> rules = {{.path = "tokens", .name = "model.embed_tokens.weight"}};
  for (int64_t i = 0; i < m.n_layer; ++i) {
    std::string ours = fmt::format("layers/{}/", i), theirs = fmt::format("model.layers.{}.", i);
    add_linear(rules, ours + "attention_norm", theirs + "input_layernorm", false);
    attention(rules, ours + "attention/", theirs + "self_attn.");
    add_linear(rules, ours + "mlp_norm", theirs + "post_attention_layernorm", false);
    for (const char* name : {"gate", "up", "down"})
      add_linear(rules, ours + "mlp/" + name, theirs + "mlp." + name + "_proj", false);
  }
  add_linear(rules, "norm", "model.norm", false);
  if (!models::ties_embeddings(m)) rules.push_back({.path = "head", .name = "lm_head.weight"});
  return rules;
}

}  // namespace basis::trainers::hf
