// A whole run: the YAML file of `basis train`.
#pragma once

#include <functional>

#include "configs/model_config.h"

namespace basis::configs {

struct RunConfig {
  std::string name = "run", out_dir = "runs", device = "auto";
  int64_t seed = 1;
  bool deterministic = true;
  static auto fields() {
    using R = RunConfig;
    return std::tuple{field("name", &R::name, "the run directory is out_dir/name"),
                      field("out_dir", &R::out_dir, "where run directories lie"),
                      field("device", &R::device, "auto: a GPU if there is one", "auto|cpu|cuda"),
                      field("seed", &R::seed, "of initial weights, data order and dropout", Range{0, 9e15}),
                      field("deterministic", &R::deterministic, "refuse kernels whose bits may differ between runs")};
  }
};

struct DataConfig {
  std::vector<std::string> train, val = {"0.1"};
  std::string tokenizer = "byte", tokenizer_path, task = "text";
  int64_t seq_len = 128, vocab = 64, pairs = 4;
  std::string shuffle = "true";
  static auto fields() {
    using D = DataConfig;
    return std::tuple{
        field("train", &D::train, "text, .h5 or .bin files: paths or globs"),
        field("val", &D::val, "paths or globs, or one fraction of the training tokens, taken from their end"),
        field("tokenizer", &D::tokenizer,
              "how text becomes tokens; checkpoint: as saved with train.init_from; shard: that of the first train file",
              "byte|char|bpe|wordpiece|checkpoint|shard"),
        field("tokenizer_path", &D::tokenizer_path, "directory, tokenizer.json or vocab.txt (bpe, wordpiece)"),
        field("task", &D::task, "text, or a synthetic task", "text|copy|induction|mqar"),
        field("seq_len", &D::seq_len, "tokens of one sequence", Range{1, kMostTokens}),
        field("vocab", &D::vocab, "token ids of a synthetic task", Range{8, kMostTokens}),
        field("pairs", &D::pairs, "keys with values, each asked for once (mqar)", at_least(1)),
        field(
            "shuffle", &D::shuffle,
            "true: each epoch all sequences in a new order; false: in file order; random_offsets: each sequence starts "
            "anywhere, as in nanoGPT",
            "true|false|random_offsets")};
  }
};

struct TrainConfig {
  int64_t global_batch = 16, micro_batch = 0, max_steps = 1000;
  double grad_clip = 1.0;
  std::vector<std::string> frozen;
  std::string precision = "f32", recompute = "none", init_from, resume = "auto", max_wall_time, on_nonfinite = "stop",
              cuda_graph = "auto";
  static auto fields() {
    using T = TrainConfig;
    return std::tuple{
        field("global_batch", &T::global_batch, "sequences of one optimizer step", Range{1, 1 << 30}),
        field("micro_batch", &T::micro_batch, "sequences of one forward pass; 0: all", at_least(0)),
        field("max_steps", &T::max_steps, "optimizer steps", at_least(0)),
        field("grad_clip", &T::grad_clip, "largest global norm of the gradient; 0: no clipping", at_least(0)),
        field("frozen", &T::frozen,
              "parameters that stay as they are: paths such as tokens or layers/0, or globs such as '*/bias' (in "
              "quotes)"),
        field("precision", &T::precision, "of activations; weights are f32 masters", "f32|bf16|f16|f64"),
        field("recompute", &T::recompute, "block: keep only block inputs, run blocks again in backward", "none|block"),
        field("init_from", &T::init_from,
              "checkpoint or run directory whose weights start the run; its model and tokenizer are then the defaults"),
        field("resume", &T::resume, "auto: go on when the run directory holds a checkpoint", "auto|never|must"),
        field("max_wall_time", &T::max_wall_time, "stop, saving, after e.g. 90s, 30m, 2h30m"),
        field("cuda_graph", &T::cuda_graph,
              "record a step on a GPU once and replay it; auto: where nothing in the step forbids it",
              "auto|true|false"),
        field("on_nonfinite", &T::on_nonfinite, "when the loss or a gradient is NaN or infinite", "stop|skip")};
  }
};

// The parameters whose names match, apart from the others; where two groups match, the later one's keys hold.
struct ParameterGroup {
  std::string match;
  std::optional<double> lr_scale, weight_decay;
  static auto fields() {
    using G = ParameterGroup;
    return std::tuple{field("match", &G::match, "glob over parameter names: * any text, / included, ? one character"),
                      field("lr_scale", &G::lr_scale, "factor on the learning rate", at_least(0)),
                      field("weight_decay", &G::weight_decay, "in place of the optimizer's", at_least(0))};
  }
};

struct OptimizerConfig {
  std::string type = "adamw";
  double lr = 1e-3, eps = 1e-8, weight_decay = 0.1, momentum = 0.9;
  std::vector<double> betas = {0.9, 0.95};
  bool gauge_rates = true;
  std::vector<ParameterGroup> groups;
  static auto fields() {
    using O = OptimizerConfig;
    return std::tuple{
        field("type", &O::type, "AdamW (arXiv 1711.05101) or SGD with momentum", "adamw|sgd"),
        field("lr", &O::lr, "highest learning rate", at_least(0)),
        field("betas", &O::betas, "decay of the two moments (adamw)", probability()),
        field("eps", &O::eps, "added to the root of the second moment (adamw)", at_least(0)),
        field("weight_decay", &O::weight_decay, "decoupled, on matrices only", at_least(0)),
        field("momentum", &O::momentum, "sgd", probability()),
        field("gauge_rates", &O::gauge_rates,
              "factors that a conversion has rescaled learn at rates by which their product moves as it did"),
        field("groups", &O::groups, "")};
  }
};

struct ScheduleConfig {
  std::string type = "cosine";
  int64_t warmup_steps = 100, decay_steps = 0;
  double min_lr = 0;
  static auto fields() {
    using S = ScheduleConfig;
    return std::tuple{
        field("type", &S::type, "after the warm-up; wsd: constant, then linear decay (arXiv 2404.06395)",
              "cosine|linear|wsd|constant"),
        field("warmup_steps", &S::warmup_steps, "steps of linear warm-up", at_least(0)),
        field("decay_steps", &S::decay_steps,
              "cosine, linear: step where min_lr is reached, 0: max_steps; wsd: length of the decay", at_least(0)),
        field("min_lr", &S::min_lr, "learning rate at the end", at_least(0))};
  }
};

struct EvalConfig {
  int64_t every = 100, batches = 20;
  static auto fields() {
    return std::tuple{field("every", &EvalConfig::every, "steps between evaluations; 0: only at the end", at_least(0)),
                      field("batches", &EvalConfig::batches, "global batches of one evaluation; 0: all", at_least(0))};
  }
};

struct SampleConfig {
  int64_t every = 0, tokens = 200, top_k = 0;
  std::string prompt = "\n";
  double temperature = 0.8, top_p = 1;
  static auto fields() {
    using S = SampleConfig;
    return std::tuple{field("every", &S::every, "steps between samples; 0: only at the end", at_least(0)),
                      field("prompt", &S::prompt, "start of the sample"),
                      field("tokens", &S::tokens, "to generate; 0: no samples", at_least(0)),
                      field("temperature", &S::temperature, "0: the likeliest token", at_least(0)),
                      field("top_k", &S::top_k, "choose among the k likeliest; 0: all", at_least(0)),
                      field("top_p", &S::top_p, "choose among the likeliest that hold this mass", Range{1e-6, 1})};
  }
};

struct CheckpointConfig {
  int64_t every = 500, keep = 2;
  bool keep_best = true;
  static auto fields() {
    using C = CheckpointConfig;
    return std::tuple{field("every", &C::every, "steps between checkpoints; 0: only at the end", at_least(0)),
                      field("keep", &C::keep, "newest checkpoints kept", at_least(1)),
                      field("keep_best", &C::keep_best, "also keep the one with the lowest validation loss")};
  }
};

struct LogConfig {
  int64_t every = 10;
  bool tensorboard = true;
  static auto fields() {
    return std::tuple{field("every", &LogConfig::every, "steps between log records", at_least(1)),
                      field("tensorboard", &LogConfig::tensorboard, "write an event file")};
  }
};

struct DistConfig {
  std::string backend = "auto";
  double timeout_s = 600;
  int64_t zero = 0;
  static auto fields() {
    using D = DistConfig;
    return std::tuple{
        field("backend", &D::backend, "auto: nccl on GPUs, mpi under mpirun, else tcp", "auto|nccl|mpi|tcp"),
        field("timeout_s", &D::timeout_s, "seconds after which a silent rank counts as lost", Range{0.1, 1e6}),
        field("zero", &D::zero, "1: each rank keeps a part of the optimizer's state (ZeRO-1)", Range{0, 1})};
  }
};

struct Config {
  RunConfig run;
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  EvalConfig eval;
  SampleConfig sample;
  CheckpointConfig checkpoint;
  LogConfig log;
  DistConfig dist;
  static auto fields() {
    using C = Config;
    return std::tuple{field("run", &C::run, ""),
                      field("model", &C::model, ""),
                      field("data", &C::data, ""),
                      field("train", &C::train, ""),
                      field("optimizer", &C::optimizer, ""),
                      field("schedule", &C::schedule, ""),
                      field("eval", &C::eval, ""),
                      field("sample", &C::sample, ""),
                      field("checkpoint", &C::checkpoint, ""),
                      field("log", &C::log, ""),
                      field("dist", &C::dist, "")};
  }
};

// Reads and validates. Throws one core::Error (usage) with every complaint as "file:line:column: message".
// `saved_model`: the model of a checkpoint, asked for when train.init_from names one; the keys of `model` are then read
// over it, and data.tokenizer is `checkpoint` unless given.
using SavedModel = std::function<ModelConfig(const std::string& init_from)>;
Config load_config(const std::string& path, const std::vector<std::string>& overrides = {},
                   const SavedModel& saved_model = {});
Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& overrides = {},
                    const SavedModel& saved_model = {});
std::string dump_yaml(const Config& config);  // every key; parses back to the same config
std::string config_help();                    // every key with type, default and meaning

// "90s", "30m", "2h30m", "45" (seconds) -> seconds; 0 for "". Throws core::Error (usage).
double parse_duration(const std::string& text);

}  // namespace basis::configs
