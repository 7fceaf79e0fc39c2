#include "trainers/session.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>

#include "trainers/checkpoint.h"
#include "trainers/data/files.h"
#include "trainers/data/shard.h"
#include "trainers/step.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

// Synthetic evaluation draws samples that training never sees.
constexpr int64_t kSyntheticEvalSamples = 1024, kSyntheticEvalFirst = int64_t{1} << 41;

std::optional<double> as_fraction(const std::vector<std::string>& val) {
  if (val.size() != 1) return {};
  double f = 0;
  const std::string& s = val[0];
  auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), f);
  if (error != std::errc() || end != s.data() + s.size()) return {};
  if (!(f >= 0 && f < 1))
    throw core::Error(
        {.where = "data.val", .expected = "a fraction in [0, 1), or paths", .got = s, .code = core::ExitCode::usage});
  return f;
}

// The tokenizer of the checkpoint that training starts from; null when it has none (then data must be token files).
TokenizerPtr saved_tokenizer(const std::string& init_from) {
  if (init_from.empty())
    throw core::Error({.where = "data.tokenizer",
                       .expected = "train.init_from beside `checkpoint`",
                       .got = "none",
                       .code = core::ExitCode::usage});
  std::string file = resolve_checkpoint(init_from).string(), json = read_checkpoint_state(file).tokenizer;
  return json.empty() ? nullptr : parse_tokenizer(json, file);
}

TokenizerPtr make_tokenizer(const configs::Config& c) {
  const configs::DataConfig& d = c.data;
  if (d.tokenizer == "byte") return byte_tokenizer();
  if (d.tokenizer == "bpe" || d.tokenizer == "wordpiece") return load_tokenizer(d.tokenizer_path);
  if (d.tokenizer == "checkpoint") return saved_tokenizer(c.train.init_from);
  if (d.tokenizer == "shard") return read_shard_tokenizer(expand_paths(d.train).front());
  std::string text;  // char: the vocabulary is the training text's
  for (const fs::path& p : expand_paths(d.train)) text += read_file(p);
  return char_tokenizer(text, "data.train");
}

Data open_synthetic(const configs::Config& c) {
  Data data;
  data.vocab_size = c.data.vocab;
  SyntheticOptions o{.task = parse_synthetic(c.data.task),
                     .seq_len = c.data.seq_len,
                     .global_batch = c.train.global_batch,
                     .vocab_size = c.data.vocab,
                     .pairs = c.data.pairs,
                     .seed = uint64_t(c.run.seed)};
  data.train = synthetic(o);
  o.samples = kSyntheticEvalSamples;
  o.first_sample = kSyntheticEvalFirst;
  data.val.emplace(synthetic(o), c.eval.batches);
  return data;
}

DatasetPtr make_dataset(const configs::Config& c, const TokenSourcePtr& source, const Data& data, bool sequential) {
  TextOptions o{.seq_len = c.data.seq_len,
                .global_batch = c.train.global_batch,
                .seed = uint64_t(c.run.seed),
                .order = sequential ? WindowOrder::sequential : parse_window_order(c.data.shuffle)};
  if (c.model.family != "bert") return language_model(source, o);
  MaskOptions masks{.vocab_size = data.vocab_size};
  if (data.tokenizer)
    if (auto id = data.tokenizer->special("[MASK]")) masks.mask_id = int32_t(*id);
  return masked_language_model(source, o, masks);
}

}  // namespace

Data open_data(const configs::Config& c, TokenizerPtr saved, bool need_train) {
  if (c.data.task != "text") return open_synthetic(c);
  if (need_train && c.data.train.empty())
    throw core::Error({.where = "data.train",
                       .expected = "at least one file",
                       .got = "none",
                       .remedy = "pass data.train=FILE",
                       .code = core::ExitCode::usage});
  Data data;
  data.tokenizer = saved ? saved : make_tokenizer(c);
  SourceOptions options{.vocab_size = c.model.vocab_size, .tokenizer = data.tokenizer};
  auto fraction = as_fraction(c.data.val);
  TokenSourcePtr train, val;
  if (need_train || fraction) train = open_sources(c.data.train, options);
  if (!fraction && !c.data.val.empty()) val = open_sources(c.data.val, options);
  if (fraction && *fraction > 0) std::tie(train, val) = split_tail(train, *fraction);
  data.vocab_size = std::max(train ? train->vocab_bound() : 0, val ? val->vocab_bound() : 0);
  if (data.tokenizer) data.vocab_size = std::max(data.vocab_size, data.tokenizer->vocab_size());
  if (train) data.train = make_dataset(c, train, data, false);
  if (val) data.val.emplace(make_dataset(c, val, data, true), c.eval.batches);
  return data;
}

EvalDataset open_windows(const configs::Config& c, const TokenizerPtr& tokenizer, int64_t window, int64_t windows) {
  if (c.model.family == "bert" || window < 2 || window > c.model.max_seq_len)
    throw core::Error({.where = "window",
                       .expected = "a language model, and a window in [2, max_seq_len]",
                       .got = fmt::format("{}, {}", c.model.family, window),
                       .code = core::ExitCode::usage});
  auto source = open_sources(c.data.val, {.vocab_size = c.model.vocab_size, .tokenizer = tokenizer});
  TextOptions o{.seq_len = window - 1, .global_batch = 4, .order = WindowOrder::sequential, .disjoint = true};
  if (windows > 0) source = slice(source, 0, std::min(windows * window, source->size()));
  return EvalDataset(language_model(source, o));
}

configs::Config load_any_config(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored))
    return configs::load_config((fs::path(path) / "config.yaml").string(), overrides);
  if (fs::path(path).extension() == ".h5")
    return configs::parse_config(read_checkpoint_state(path).config, path, overrides);
  return configs::load_config(path, overrides);
}

configs::Config load_training_config(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored) || fs::path(path).extension() == ".h5") return load_any_config(path, overrides);
  return configs::load_config(path, overrides, [](const std::string& init_from) {
    std::string file = resolve_checkpoint(init_from).string();
    return configs::parse_config(read_checkpoint_state(file).config, file).model;
  });
}

Loaded load_model(const std::string& path, const std::vector<std::string>& overrides) {
  fs::path file = resolve_checkpoint(path);
  CheckpointState state = read_checkpoint_state(file);
  Loaded loaded;
  loaded.config = configs::parse_config(state.config, file.string(), overrides);
  loaded.step = state.step;
  if (!state.tokenizer.empty()) loaded.tokenizer = parse_tokenizer(state.tokenizer, file.string());
  loaded.model = models::make_model(loaded.config.model);
  core::Device device = choose_device(loaded.config.run.device);
  loaded.compute = core::parse_dtype(loaded.config.train.precision);
  if (device.is_cpu() && core::size_of(loaded.compute) == 2) loaded.compute = core::DType::f32;  // trained on a GPU
  for (models::Parameter& p : loaded.model->parameters())  // what the checkpoint fills
    p.var.set_value(
        core::Tensor::empty(p.var.shape(), p.buffer ? p.var.dtype() : parameter_dtype(loaded.config), device));
  load_checkpoint(file, *loaded.model, nullptr);
  return loaded;
}

core::Device training_device(const configs::Config& c) {
  core::Device device = choose_device(c.run.device);
  if (device.is_cpu() && core::size_of(core::parse_dtype(c.train.precision)) == 2)
    throw core::Error({.where = "train.precision",
                       .expected = "f32 or f64 on the CPU",
                       .got = c.train.precision,
                       .remedy = "train.precision=f32, or a GPU",
                       .code = core::ExitCode::usage});
  return device;
}

core::DType parameter_dtype(const configs::Config& c) {
  return c.train.precision == "f64" ? core::DType::f64 : core::DType::f32;
}

}  // namespace basis::trainers
