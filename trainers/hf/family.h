// How a Hugging Face family of models becomes ours and back: its config.json and the names and layouts of its tensors.
// A family is one file (gpt2.cpp, llama.cpp, bert.cpp, ...) with three functions and an entry in family.cpp.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "configs/model_config.h"

namespace basis::trainers::hf {

// Reads config.json's keys: a missing key has its default, a key of the wrong type is core::Error (bad_file).
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& config, std::string file) : config_(config), file_(std::move(file)) {}
  int64_t integer(const char* key) const;                    // must be there
  int64_t integer(const char* key, int64_t fallback) const;  // null counts as missing
  double number(const char* key, double fallback) const;
  bool boolean(const char* key, bool fallback) const;
  std::string text(const char* key, const std::string& fallback) const;
  const nlohmann::json& root() const { return config_; }
  const std::string& file() const { return file_; }
  // Throws core::Error (bad_file) with "key: expected `expected`" and the value that is there, unless `ok`.
  void require(bool ok, const char* key, const std::string& expected, const std::string& remedy = "") const;

 private:
  const nlohmann::json* find(const char* key) const;
  const nlohmann::json& config_;
  std::string file_;
};

// Our parameter `path` is made from Hugging Face's tensor `name`: the tensor, transposed if it is stored [in, out], and
// of it the rows [g * stride + first, g * stride + first + rows) for each of `groups` g; rows 0: all of them.
struct TensorRule {
  std::string path, name;
  bool transposed = false;
  int64_t groups = 1, stride = 0, first = 0, rows = 0;
};

struct Family {
  std::string model_type;    // of config.json
  std::string architecture;  // "GPT2LMHeadModel"
  std::string prefix;        // of the base model's tensors; files saved without a head lack it: "transformer."
  std::string config_family, projector;  // ModelConfig's family and dense projector
  configs::ModelConfig (*read)(const ConfigReader&);
  void (*write)(const configs::ModelConfig&, nlohmann::ordered_json&);
  std::vector<TensorRule> (*tensors)(const configs::ModelConfig&);
  // Parts of names that hold nothing trained (masks, rotary frequencies, position ids).
  std::vector<std::string> buffers;
  // Tensors that repeat another one: {copy, original}; left out when the original is there.
  std::vector<std::pair<std::string, std::string>> ties;
};

extern const Family gpt2, llama, bert, deepseek_v2;

const Family& family_of(const nlohmann::json& config, const std::string& file);  // core::Error (bad_file): unknown
const Family& family_of(const configs::ModelConfig& config);                     // core::Error (usage): none fits

// RoPE's base from rope_parameters.rope_theta (transformers 5) or rope_theta; scaled variants are refused.
double read_rope_theta(const ConfigReader& c);
void write_rope_theta(double theta, nlohmann::ordered_json& j);  // under both names
// Activation names: "gelu_new" <-> gelu_tanh and so on; "swiglu" is silu with a gate.
std::string read_activation(const ConfigReader& c, const char* key, const std::string& fallback);
std::string activation_name(const std::string& ours);

// A weight and, when `bias`, a bias under both names.
void add_linear(std::vector<TensorRule>& rules, const std::string& path, const std::string& name, bool bias,
                bool transposed = false);
// The tensors of a decoder laid out as Llama's; `attention` adds those of one layer between our path
// "layers/0/attention/" and their prefix "model.layers.0.self_attn.".
std::vector<TensorRule> llama_like_tensors(
    const configs::ModelConfig& m,
    const std::function<void(std::vector<TensorRule>&, const std::string& ours, const std::string& theirs)>& attention);

}  // namespace basis::trainers::hf
