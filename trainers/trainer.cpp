#include "trainers/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "core/log.h"
#include "trainers/checkpoint.h"
#include "trainers/estimate.h"
#include "trainers/generate.h"
#include "trainers/hf/bd_init.h"
#include "trainers/optim/groups.h"
#include "trainers/optim/schedule.h"
#include "trainers/recorded_step.h"
#include "trainers/recorder.h"
#include "trainers/run/signals.h"
#include "trainers/session.h"
#include "trainers/step.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Loop {
 public:
  Loop(const configs::Config& config, CommunicatorPtr comm)
      : c_(config), comm_(std::move(comm)), device_(training_device(c_)), data_(open_data(c_)) {
    if (comm_->size() > c_.train.global_batch)
      throw core::Error({.where = "train.global_batch",
                         .expected = fmt::format("at least one sequence for each of {} ranks", comm_->size()),
                         .got = std::to_string(c_.train.global_batch),
                         .code = core::ExitCode::usage});
    if (comm_->is_first()) directory_.emplace(fs::path(c_.run.out_dir) / c_.run.name);
    core::set_deterministic(c_.run.deterministic);
    if (c_.model.vocab_size == 0) c_.model.vocab_size = data_.vocab_size;
    if (c_.model.vocab_size < data_.vocab_size)
      throw core::Error({.where = "model.vocab_size",
                         .expected = fmt::format("at least the data's {}", data_.vocab_size),
                         .got = std::to_string(c_.model.vocab_size),
                         .code = core::ExitCode::usage});
    model_ = models::make_model(c_.model);
    freeze(c_.train, model_->parameters());
    if (comm_->is_first()) check_estimate(estimate_step(c_, *model_), device_);
    model_->initialize(uint64_t(c_.run.seed), device_, parameter_dtype(c_));
    optimizer_ = std::make_unique<Optimizer>(c_.optimizer, model_->parameters(), c_.train.precision == "f16");
    state_.config = configs::dump_yaml(c_);
    state_.tokenizer = data_.tokenizer ? data_.tokenizer->serialise() : "";
    if (comm_->is_first()) start_weights();
    constexpr double none = -std::numeric_limits<double>::infinity();
    bool first = comm_->is_first();
    auto start = comm_->agree({first ? double(state_.step) : none, first ? state_.best_val_loss : none}, Reduce::max);
    state_.step = int64_t(start[0]), state_.best_val_loss = start[1];
    parallel_ = std::make_unique<DataParallel>(comm_, model_->parameters(), c_.dist.zero);
    parallel_->begin(*optimizer_);
    if (std::string paces = describe_paces(c_.optimizer, model_->parameters()); first && !paces.empty())
      core::log_info("{}", paces);
    if (core::size_of(compute_) == 2) copies_ = &parallel_->keep_copies(*optimizer_, compute_);
    if (directory_) directory_->write_config(state_.config);
    if (comm_->size() == 1) recorded_ = make_recorded_step(*model_, *optimizer_, c_.train);
    if (comm_->size() > 1 && c_.train.cuda_graph == "true")
      throw core::Error({.where = "train.cuda_graph",
                         .expected = "one process",
                         .got = std::to_string(comm_->size()),
                         .remedy = "train.cuda_graph: auto",
                         .code = core::ExitCode::usage});
  }

  int run() {
    StopSignals signals;
    if (directory_)
      recorder_ = std::make_unique<Recorder>(c_, *directory_, state_.step, model_->parameter_count(), name_of(device_));
    double wall_limit = configs::parse_duration(c_.train.max_wall_time);
    auto start = Clock::now();
    saved_step_ = state_.step;
    while (state_.step < c_.train.max_steps) {
      if (int code = one_step()) return code;
      bool late = wall_limit > 0 && seconds_since(start) >= wall_limit;
      auto stop = comm_->agree({double(signals.caught()), double(late)}, Reduce::max);
      if (int signal = int(stop[0])) {
        save();
        note(fmt::format("stopped by signal {} after step {}; checkpoint saved", signal, state_.step));
        return 128 + signal;
      }
      if (stop[1] != 0) {
        save();
        note(fmt::format("max_wall_time reached after step {}; checkpoint saved", state_.step));
        return 0;
      }
    }
    finish();
    return 0;
  }

  int64_t steps_done() const { return state_.step; }

 private:
  // Weights from the run's own checkpoint, from init_from, or as initialised.
  void start_weights() {
    const std::string& resume = c_.train.resume;
    auto own = resume == "never" ? std::nullopt : newest_valid_checkpoint(directory_->path());
    if (own) {
      CheckpointState saved = load_checkpoint(*own, *model_, optimizer_.get());
      if (!saved.tokenizer.empty() && saved.tokenizer != state_.tokenizer)
        throw core::Error({.where = own->string(),
                           .expected = "the tokenizer of the run so far",
                           .got = "another one",
                           .remedy = "restore the data, or train.resume=never",
                           .code = core::ExitCode::usage});
      state_.step = saved.step;
      state_.best_val_loss = saved.best_val_loss;
      core::log_info("resuming from {} at step {}", own->string(), state_.step);
    } else if (resume == "must") {
      throw core::Error({.where = "train.resume",
                         .expected = "a checkpoint in " + directory_->path().string(),
                         .got = "none",
                         .code = core::ExitCode::bad_file});
    } else if (!c_.train.init_from.empty()) {
      load_checkpoint(resolve_checkpoint(c_.train.init_from), *model_, nullptr);
      core::log_info("starting from the weights of {}", c_.train.init_from);
    } else {
      hf::convert_initialisation(*model_, uint64_t(c_.run.seed));
    }
  }

  int one_step() {
    int64_t step = state_.step;
    generator_.begin_step(uint64_t(step));
    models::Pass pass{
        .training = true, .compute = compute_, .random = &generator_, .recompute = c_.train.recompute == "block"};
    pass.copies = copies_;
    double lr = learning_rate(c_, step);
    Tensor loss;
    std::string bad;
    if (recorded_) {
      optimizer_->set_rates(lr, c_.train.grad_clip);
      loss = recorded_->run(pass, read_batch(*data_.train, step, c_.train));
    } else {
      loss = forward_backward(*model_, pass, *data_.train, step, c_.train, *optimizer_, *parallel_);
      if (device_.is_cpu()) bad = first_nonfinite_gradient();
      parallel_->update(*optimizer_, lr, c_.train.grad_clip);
    }
    ++state_.step;
    bool log = state_.step % c_.log.every == 0 || state_.step == c_.train.max_steps;
    if (device_.is_cpu() || log) {  // elsewhere the host does not wait for the device between logs
      StepResult result = optimizer_->result();
      double value = loss.item();
      comm_->check();
      if (result.skipped || !std::isfinite(value)) {
        if (int code = nonfinite(bad, value)) return code;
      }
      if (recorder_)
        recorder_->step({.step = state_.step, .loss = value, .lr = lr, .grad_norm = result.grad_norm}, log);
    }
    after_step();
    return 0;
  }

  void after_step() {
    bool last = state_.step == c_.train.max_steps;
    if (data_.val && ((c_.eval.every && state_.step % c_.eval.every == 0) || last)) {
      EvalResult result = evaluate(*model_, *data_.val, compute_, *comm_, copies_);
      double loss = result.loss;
      if (recorder_) recorder_->validation(state_.step, loss, result.accuracy);
      if (loss < state_.best_val_loss) {
        state_.best_val_loss = loss;
        if (c_.checkpoint.keep_best && directory_)
          save_checkpoint(directory_->checkpoints() / "best.h5", state_, *model_, nullptr);
      }
    }
    if ((c_.sample.every && state_.step % c_.sample.every == 0) || last) sample();
    if ((c_.checkpoint.every && state_.step % c_.checkpoint.every == 0) || last) save();
  }

  void sample() {
    if (!recorder_ || !data_.tokenizer || c_.sample.tokens == 0 || c_.model.family == "bert") return;
    auto ids = data_.tokenizer->encode(c_.sample.prompt);
    std::vector<int32_t> prompt(ids.begin(), ids.end());
    if (prompt.empty()) prompt.push_back(0);
    auto made = generate(*model_, prompt,
                         {.tokens = c_.sample.tokens,
                          .temperature = c_.sample.temperature,
                          .top_k = c_.sample.top_k,
                          .top_p = c_.sample.top_p,
                          .seed = uint64_t(c_.run.seed)},
                         compute_);
    std::vector<uint32_t> text(made.begin(), made.end());
    recorder_->sample(state_.step, c_.sample.prompt + data_.tokenizer->decode(text));
  }

  void save() {
    if (saved_step_ == state_.step) return;
    Optimizer whole = parallel_->whole(*optimizer_);
    saved_step_ = state_.step;
    core::synchronize(device_);
    comm_->check();  // weights of a sum that broke off must not be kept
    if (!directory_) return;
    save_checkpoint(directory_->checkpoint(state_.step), state_, *model_, &whole);
    auto files = checkpoint_files(directory_->path());
    for (const CheckpointFile& f : files) {
      int64_t newer = std::count_if(files.begin(), files.end(), [&](const auto& g) { return g.step > f.step; });
      std::error_code ignored;
      if (newer >= c_.checkpoint.keep) fs::remove(f.path, ignored);
    }
  }

  std::string first_nonfinite_gradient() const {
    for (const Optimizer::Slot& s : optimizer_->slots()) {
      if (!s.parameter.grad()) continue;
      Tensor scalars = Tensor::zeros({kScalars}, core::DType::f64, device_);
      add_squared_norms(device_.type, s.parameter.grad().dtype(), Tensors{s.parameter.grad()}, scalars);
      if (!std::isfinite(scalars.data<double>()[kSquaredNorm])) return "the gradient of " + s.path;
    }
    return "";
  }

  // The update was already left out on the device, so the weights are those of the step before.
  int nonfinite(const std::string& tensor, double loss) {
    std::string what = fmt::format("step {}: loss {}, first bad tensor: {}", state_.step, loss,
                                   tensor.empty() ? "the gradient" : tensor);
    if (recorder_) recorder_->nonfinite(state_.step, what);
    if (c_.train.on_nonfinite == "skip") return 0;
    --state_.step;
    save();
    if (!directory_) return int(core::ExitCode::nonfinite);
    core::log_warning(
        "stopping at a non-finite {}; the last good weights are in {} (lower optimizer.lr, or train.on_nonfinite: "
        "skip)",
        what, directory_->checkpoints().string());
    return int(core::ExitCode::nonfinite);
  }

  void finish() {
    save();
    if (recorder_) recorder_->finish(state_.step, state_.best_val_loss, core::memory_stats(device_).peak);
  }

  void note(const std::string& line) {
    if (recorder_) recorder_->note(line);
  }

  configs::Config c_;
  CommunicatorPtr comm_;
  core::Device device_;
  Data data_;
  std::optional<RunDirectory> directory_;  // on rank 0
  std::unique_ptr<models::Model> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<RecordedStep> recorded_;  // null: every step is submitted anew
  CheckpointState state_;
  std::unique_ptr<DataParallel> parallel_;
  const models::WeightCopies* copies_ = nullptr;                                        // under bf16 and f16
  std::unique_ptr<Recorder> recorder_;                                                  // on rank 0
  core::Generator generator_{uint64_t(c_.run.seed) + (uint64_t(comm_->rank()) << 54)};  // ranks drop different units
  core::DType compute_ = core::parse_dtype(c_.train.precision);
  int64_t saved_step_ = -1;
};

}  // namespace

int train(const configs::Config& config, CommunicatorPtr comm) {
  Loop loop(config, std::move(comm));
  try {
    return loop.run();
  } catch (const core::Error& e) {
    if (e.code() != core::ExitCode::rank_lost) throw;
    core::Fault fault = e.fault();
    fault.got += fmt::format("; the last step done is {}", loop.steps_done());
    throw core::Error(fault);
  }
}

std::string describe_run(const configs::Config& config) {
  configs::Config c = config;
  if (c.model.vocab_size == 0) c.model.vocab_size = open_data(c).vocab_size;
  auto model = models::make_model(c.model);
  freeze(c.train, model->parameters());
  StepEstimate e = estimate_step(c, *model);
  return configs::dump_yaml(c) + describe_groups(c, model->parameters()) +
         fmt::format(
             "# {} parameters, {} trained; memory of a step, estimated: {:.1f} MiB of weights, gradients and optimizer "
             "state, {:.1f} MiB of activations\n",
             e.parameters, e.trained, e.state_bytes / 1048576, e.activation_bytes / 1048576);
}

}  // namespace basis::trainers
