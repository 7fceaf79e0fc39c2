#include "trainers/recorder.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "trainers/run/numbers.h"

namespace basis::trainers {
namespace {

double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

Recorder::Recorder(const configs::Config& c, const RunDirectory& directory, int64_t first_step, int64_t parameters,
                   const std::string& device)
    : c_(c),
      directory_(directory),
      metrics_(directory.metrics(), first_step),
      progress_(first_step, c.train.max_steps),
      start_(std::chrono::steady_clock::now()),
      last_log_(start_),
      first_step_(first_step),
      last_logged_step_(first_step) {
  if (c.log.tensorboard) {
    events_ =
        std::make_unique<TensorBoardWriter>(directory.path(), first_step ? std::optional(first_step) : std::nullopt);
    events_->text("config", first_step, markdown_code(configs::dump_yaml(c)));
  }
  for (const Record& r : read_metrics(directory.metrics())) {  // what a resumed run already has
    if (r.contains("elapsed") && r["elapsed"].is_number()) before_ = r["elapsed"].get<double>();
    if (r.contains("loss") && r["loss"].is_number())
      curve_.train.push_back({r["step"].get<int64_t>(), r["loss"].get<double>()});
    if (r.contains("val_loss") && r["val_loss"].is_number())
      curve_.validation.push_back({r["step"].get<int64_t>(), r["val_loss"].get<double>()});
  }
  curve_.title = c.run.name;
  curve_.subtitle = fmt::format("{} with {} parameters, {} sequences of {} tokens a step, lr {}", c.model.family,
                                format_count(double(parameters)), c.train.global_batch, c.data.seq_len, c.optimizer.lr);
  progress_.note(fmt::format("{}: {} parameters on {}, {} steps, run directory {}", c.run.name,
                             format_count(double(parameters)), device, c.train.max_steps, directory.path().string()));
}

void Recorder::step(const Step& s, bool log) {
  auto now = std::chrono::steady_clock::now();
  int64_t tokens = c_.train.global_batch * c_.data.seq_len;
  double rate = double((s.step - last_logged_step_) * tokens) / std::max(1e-9, seconds(now - last_log_));
  progress_.update({.step = s.step,
                    .max_steps = c_.train.max_steps,
                    .loss = s.loss,
                    .lr = s.lr,
                    .grad_norm = s.grad_norm,
                    .tokens_per_s = rate},
                   log);
  if (!log) return;
  metrics_.append({{"step", s.step},
                   {"loss", s.loss},
                   {"lr", s.lr},
                   {"grad_norm", s.grad_norm},
                   {"tokens", s.step * tokens},
                   {"tokens_per_s", std::round(rate)},
                   {"elapsed", before_ + seconds(now - start_)}});
  if (events_) {
    events_->scalar("loss/train", s.step, s.loss);
    events_->scalar("lr", s.step, s.lr);
    events_->scalar("grad_norm", s.step, s.grad_norm);
    events_->scalar("tokens_per_s", s.step, rate);
  }
  curve_.train.push_back({s.step, s.loss});
  last_log_ = now;
  last_logged_step_ = s.step;
}

void Recorder::validation(int64_t step, double loss, double accuracy) {
  metrics_.append({{"step", step},
                   {"val_loss", loss},
                   {"val_accuracy", accuracy},
                   {"elapsed", before_ + seconds(std::chrono::steady_clock::now() - start_)}});
  if (events_) events_->scalar("loss/val", step, loss), events_->scalar("accuracy/val", step, accuracy);
  curve_.validation.push_back({step, loss});
  progress_.note(fmt::format("step {}: validation loss {:.4f} nats/token, perplexity {:.3f}, accuracy {:.4f}", step,
                             loss, std::exp(loss), accuracy));
  draw_curve();
}

void Recorder::sample(int64_t step, const std::string& text) {
  directory_.write_sample(step, text);
  if (events_) events_->text("sample", step, markdown_code(text));
  progress_.note(fmt::format("--- sample at step {} ---\n{}\n---", step, text));
}

void Recorder::nonfinite(int64_t step, const std::string& what) {
  metrics_.append({{"step", step}, {"nonfinite", what}});
  progress_.note("non-finite: " + what);
}

void Recorder::draw_curve() { write_loss_svg(directory_.loss_svg(), curve_); }

void Recorder::finish(int64_t step, double best_val_loss, int64_t peak_bytes) {
  draw_curve();
  progress_.finish();
  double time = seconds(std::chrono::steady_clock::now() - start_);
  std::string best = std::isfinite(best_val_loss) ? fmt::format(", best validation loss {:.4f}", best_val_loss) : "";
  if (step > c_.train.max_steps)
    return progress_.note(fmt::format("nothing to do: {} is at step {}, beyond train.max_steps {}",
                                      directory_.path().string(), step, c_.train.max_steps));
  double mib = double(peak_bytes) / (1 << 20);
  std::string peak = mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
  progress_.note(fmt::format("done: {} steps in {}{}, peak memory {}; see {}", step - first_step_,
                             format_duration(time), best, peak, directory_.path().string()));
}

}  // namespace basis::trainers
