// What every command that runs a model needs: the configuration, the data it names, and a model on its device.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "configs/train_config.h"
#include "models/model.h"
#include "trainers/data/dataset.h"
#include "trainers/data/tokenizer.h"

namespace basis::trainers {

struct Data {
  TokenizerPtr tokenizer;  // null for a synthetic task or for shards without one
  DatasetPtr train;
  std::optional<EvalDataset> val;  // of eval.batches global batches; none when data.val is empty
  int64_t vocab_size = 0;
};

// Opens the files that data.* names. `saved`: the tokenizer of a checkpoint, which then takes the place of
// data.tokenizer; with `need_train` false only validation data given by paths is opened. Throws core::Error (bad_file)
// for data that cannot be used.
Data open_data(const configs::Config& config, TokenizerPtr saved = nullptr, bool need_train = true);

// The perplexity protocol of published language models: data.val in windows of `window` tokens, each scored alone, its
// first token unscored; the first `windows` of them (0: all). Throws core::Error (usage) for an encoder.
EvalDataset open_windows(const configs::Config& config, const TokenizerPtr& tokenizer, int64_t window, int64_t windows);

// The config of a YAML file, of a run directory (its config.yaml) or of a checkpoint, with overrides applied.
configs::Config load_any_config(const std::string& path, const std::vector<std::string>& overrides);
// The same for training: a YAML file's train.init_from gives the model and the tokenizer where the file is silent.
configs::Config load_training_config(const std::string& path, const std::vector<std::string>& overrides);

// A model with the weights of a checkpoint or run directory, and what was saved with them.
struct Loaded {
  configs::Config config;
  TokenizerPtr tokenizer;  // may be null
  std::unique_ptr<models::Model> model;
  int64_t step = 0;
  core::DType compute = core::DType::f32;
};
Loaded load_model(const std::string& path, const std::vector<std::string>& overrides);

// The device of run.device. Throws core::Error (usage) where it cannot compute in train.precision.
core::Device training_device(const configs::Config& config);

core::DType parameter_dtype(const configs::Config& config);  // f64 under train.precision: f64, else f32

}  // namespace basis::trainers
