#include "trainers/hf/directory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/parallel.h"
#include "models/family.h"
#include "trainers/data/bpe_json.h"
#include "trainers/run/files.h"

namespace basis::trainers::hf {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Shape;
using core::Tensor;
using nlohmann::json;

constexpr const char* kTokenizerFiles[] = {"tokenizer.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "vocab.txt",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "generation_config.json"};

bool has_tokenizer(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / "tokenizer.json", ignored) || fs::exists(path / "vocab.txt", ignored) ||
         (fs::exists(path / "vocab.json", ignored) && fs::exists(path / "merges.txt", ignored));
}

// The shape of the stored tensor that `rule` takes a parameter of shape `ours` from.
Shape stored_shape(const TensorRule& rule, const Shape& ours) {
  Shape shape = ours;
  if (rule.rows) shape[0] = rule.groups * rule.stride;
  if (rule.transposed) std::swap(shape[0], shape[1]);
  return shape;
}

// Calls copy(theirs, ours) on the matching views of a stored tensor and a parameter.
template <class Copy>
void match(const TensorRule& r, const Tensor& stored, const Tensor& ours, Copy&& copy) {
  Tensor theirs = r.transposed ? stored.transpose(0, 1) : stored;
  if (!r.rows) return copy(theirs, ours);
  for (int64_t g = 0; g < r.groups; ++g) {
    int64_t first = g * r.stride + r.first;
    copy(theirs.slice(0, first, first + r.rows), ours.slice(0, g * r.rows, (g + 1) * r.rows));
  }
}

// ours = theirs. A transposed f32 view goes tile by tile, so that both sides move whole cache lines.
void copy_view(const Tensor& theirs, const Tensor& ours) {
  bool tiles = theirs.dim() == 2 && theirs.dtype() == DType::f32 && ours.dtype() == DType::f32 &&
               theirs.stride(0) == 1 && ours.stride(1) == 1;
  if (!tiles) return ours.copy_from(theirs);
  constexpr int64_t kTile = 32;
  int64_t rows = ours.size(0), columns = ours.size(1), from_stride = theirs.stride(1), to_stride = ours.stride(0);
  const float* from = theirs.data<float>();
  float* to = ours.data<float>();
  core::parallel_for((rows + kTile - 1) / kTile, 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin * kTile; r < std::min(rows, end * kTile); r += kTile)
      for (int64_t c = 0; c < columns; c += kTile)
        for (int64_t i = r; i < std::min(rows, r + kTile); ++i)
          for (int64_t j = c; j < std::min(columns, c + kTile); ++j) to[i * to_stride + j] = from[j * from_stride + i];
  });
}

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool contains_any(const std::string& name, const std::vector<std::string>& parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const std::string& p) { return name.find(p) != std::string::npos; });
}

// Names as a file may spell them: with or without the base model's prefix, and TensorFlow's names of a norm.
class Names {
 public:
  Names(const Family& family, const TensorFiles& files) : family_(family), files_(files) {}

  // The file's name for `name`, or empty.
  std::string find(const std::string& name) const {
    for (const std::string& candidate : {name, without_prefix(name), old_norm(name), without_prefix(old_norm(name))})
      if (files_.has(candidate)) return candidate;
    return "";
  }

 private:
  std::string without_prefix(const std::string& name) const {
    return name.starts_with(family_.prefix) ? name.substr(family_.prefix.size()) : name;
  }
  static std::string old_norm(const std::string& name) {
    for (auto [now, old] : {std::pair("LayerNorm.weight", "LayerNorm.gamma"), {"LayerNorm.bias", "LayerNorm.beta"}})
      if (name.ends_with(now)) return name.substr(0, name.size() - std::string_view(now).size()) + old;
    return name;
  }
  const Family& family_;
  const TensorFiles& files_;
};

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), size_t(a.bytes())) == 0;
}

// Sizes that the files cannot hold are refused before a model of that size is built.
void check_sizes(const configs::ModelConfig& c, const TensorFiles& files, const std::string& where) {
  double elements = double(files.bytes()) / 2;
  auto fits = [&](double rows, double columns, const char* what) {
    if (rows < 1 || columns < 1 || rows * columns > elements)
      throw bad_file(where, fmt::format("sizes that fit {} bytes of weights", files.bytes()),
                     fmt::format("{} [{}, {}]", what, rows, columns), "config.json and weights disagree");
  };
  fits(double(c.n_layer), double(c.d_model), "norms of the layers");
  fits(double(c.vocab_size), double(c.d_model), "token embeddings");
  fits(double(c.d_ff), double(c.d_model), "an MLP");
  fits(double(c.n_head), double(c.d_model), "heads");
  if (c.n_head < 1 || c.kv_heads() < 1 || c.n_head % c.kv_heads() || (!c.head_dim && c.d_model % c.n_head))
    throw bad_file(where, "heads that divide the width, and key heads that divide the heads",
                   fmt::format("{} heads, {} key heads, width {}", c.n_head, c.kv_heads(), c.d_model));
  fits(double(c.n_head * c.head_width()), double(c.d_model), "a query projection");
  if (!models::rope_options(c)) fits(double(c.max_seq_len), double(c.d_model), "positions");
  if (models::latent_attention(c)) fits(double(c.latent_width()), double(c.d_model), "a latent");
  if (c.type_vocab_size) fits(double(c.type_vocab_size), double(c.d_model), "token types");
}

void report_unused(const Family& family, const TensorFiles& files, const Names& names,
                   const std::set<std::string>& used, TensorReport& report) {
  for (const std::string& name : files.names()) {
    if (used.contains(name)) continue;
    bool tie = std::any_of(family.ties.begin(), family.ties.end(), [&](const auto& t) {
      std::string original = names.find(t.second);
      return name == names.find(t.first) && used.contains(original) &&
             same_bytes(files.read(name), files.read(original));
    });
    if (tie)
      report.ties.push_back(name);
    else if (contains_any(name, family.buffers))
      report.buffers.push_back(name);
    else
      report.unexpected.push_back(name);
  }
}

std::map<std::string, models::Parameter> by_path(const models::Model& model) {
  std::map<std::string, models::Parameter> map;
  for (models::Parameter& p : model.parameters()) map.emplace(p.path, p);
  return map;
}

void read_weights(const fs::path& path, const TensorFiles& files, const Family& family, DType parameters,
                  Directory& d) {
  Names names(family, files);
  auto ours = by_path(*d.model);
  std::set<std::string> used;
  std::string held;  // of the tensor below: fused ones are read once
  Tensor stored;
  bool first = true;
  for (const TensorRule& rule : family.tensors(d.model_config)) {
    std::string name = names.find(rule.name);
    if (name.empty()) {
      d.tensors.missing.push_back(rule.name);
      continue;
    }
    models::Parameter& p = ours.at(rule.path);
    Shape expected = stored_shape(rule, p.var.shape());
    if (const auto& got = files.info(name).shape; !std::equal(got.begin(), got.end(), expected.begin(), expected.end()))
      throw bad_file(path.string() + ": " + name, expected.str(), shape_text(got), "config.json and weights disagree");
    if (name != held) stored = files.read(name), held = name;
    if (!is_float(stored.dtype()))
      throw bad_file(path.string() + ": " + name, "floating point weights", files.info(name).dtype);
    if (first || size_of(stored.dtype()) > size_of(d.dtype)) d.dtype = stored.dtype(), first = false;
    if (used.insert(name).second) d.parameters += stored.numel(), d.bytes += stored.bytes();
    if (!rule.rows && !rule.transposed && stored.dtype() == parameters) {
      p.var.set_value(stored);
      continue;
    }
    Tensor value = Tensor::empty(p.var.shape(), parameters);
    match(rule, stored, value, copy_view);
    p.var.set_value(value);
  }
  report_unused(family, files, names, used, d.tensors);
  if (const auto& missing = d.tensors.missing; !missing.empty()) {
    size_t shown = std::min<size_t>(missing.size(), 8);
    std::vector<std::string> head(missing.begin(), missing.begin() + std::ptrdiff_t(shown));
    throw bad_file(path, fmt::format("{} weights that are missing", missing.size()),
                   fmt::format("{}{}", fmt::join(head, ", "), shown < missing.size() ? ", ..." : ""),
                   "the files hold another model than config.json describes");
  }
}

}  // namespace

bool is_hugging_face(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored) && fs::exists(path / "config.json", ignored);
}

Directory read_directory(const fs::path& path, DType parameters) {
  std::string file = (path / "config.json").string();
  json config = parse_json(read_file(file), file);
  const Family& family = family_of(config, file);
  Directory d;
  d.config = config;
  d.model_config = family.read(ConfigReader(config, file));
  TensorFiles files(path);
  check_sizes(d.model_config, files, file);
  d.model = models::make_model(d.model_config);
  read_weights(path, files, family, parameters, d);
  if (has_tokenizer(path)) d.tokenizer = load_tokenizer(path);
  if (d.tokenizer && d.tokenizer->vocab_size() > d.model_config.vocab_size)
    throw bad_file(path, fmt::format("a tokenizer of at most {} ids", d.model_config.vocab_size),
                   std::to_string(d.tokenizer->vocab_size()));
  return d;
}

void write_directory(const fs::path& path, const models::Model& model, DType dtype,
                     const nlohmann::ordered_json& base) {
  configs::ModelConfig c = model.config();
  const Family& family = family_of(c);
  auto ours = by_path(model);
  if (!models::rope_options(c) && !models::has_bias(c)) {  // Hugging Face's model has biases: zero
    c.bias = true;
    for (auto& [path, p] : by_path(*models::make_model(c)))
      if (ours.try_emplace(path, p).second) p.var.set_value(Tensor::zeros(p.var.shape(), DType::f32));
  }
  std::map<std::string, Tensor> stored;
  for (const TensorRule& rule : family.tensors(c)) {
    auto p = ours.find(rule.path);
    if (p == ours.end())
      throw core::Error({.where = rule.path,
                         .expected = "the parameter of a dense " + model.config().family + " model",
                         .got = "none",
                         .remedy = "convert with --projector dense first",
                         .code = core::ExitCode::usage});
    const Tensor& value = p->second.var.value();
    Tensor& target = stored[rule.name];
    if (!target) target = Tensor::empty(stored_shape(rule, value.shape()), dtype);
    match(rule, target, value.to(core::cpu), [](const Tensor& theirs, const Tensor& mine) { theirs.copy_from(mine); });
  }
  nlohmann::ordered_json config = base.is_object() ? base : nlohmann::ordered_json::object();
  config["architectures"] = {family.architecture};
  config["model_type"] = family.model_type;
  family.write(c, config);
  const char* name = dtype == DType::bf16  ? "bfloat16"
                     : dtype == DType::f16 ? "float16"
                     : dtype == DType::f64 ? "float64"
                                           : "float32";
  config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = name;
  write_file(path / "config.json", config.dump(2) + "\n");
  write_tensor_files(path, {stored.begin(), stored.end()});
}

void copy_side_files(const fs::path& from, const fs::path& to, bool with_config) {
  std::error_code ignored;
  std::vector<std::string> files(std::begin(kTokenizerFiles), std::end(kTokenizerFiles));
  if (with_config) files.push_back("config.json");
  for (const std::string& file : files)
    if (fs::exists(from / file, ignored)) write_file(to / file, read_file(from / file));
}

}  // namespace basis::trainers::hf
