// Everything a run leaves behind while it goes: metrics.jsonl, TensorBoard events, the loss curve, samples, and the
// progress line.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "configs/train_config.h"
#include "trainers/run/loss_svg.h"
#include "trainers/run/metrics.h"
#include "trainers/run/progress.h"
#include "trainers/run/run_directory.h"
#include "trainers/run/tensorboard.h"

namespace basis::trainers {

class Recorder {
 public:
  struct Step {
    int64_t step;
    double loss, lr, grad_norm;
  };

  Recorder(const configs::Config& config, const RunDirectory& directory, int64_t first_step, int64_t parameters,
           const std::string& device);
  void step(const Step& s, bool log);
  void validation(int64_t step, double loss, double accuracy);
  void sample(int64_t step, const std::string& text);
  void nonfinite(int64_t step, const std::string& what);
  void note(const std::string& line) { progress_.note(line); }
  void finish(int64_t step, double best_val_loss, int64_t peak_bytes);  // of the device's memory

 private:
  void draw_curve();

  const configs::Config& c_;
  const RunDirectory& directory_;
  MetricsLog metrics_;
  std::unique_ptr<TensorBoardWriter> events_;  // null when log.tensorboard is off
  Progress progress_;
  LossCurve curve_;
  std::chrono::steady_clock::time_point start_, last_log_;
  int64_t first_step_, last_logged_step_;
  double before_ = 0;  // seconds that earlier parts of the run took
};

}  // namespace basis::trainers
