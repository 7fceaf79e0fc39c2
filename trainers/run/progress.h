// The state of a run on one line: redrawn in place on a terminal, one plain line per log interval otherwise.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

namespace basis::trainers {

struct ProgressState {
  int64_t step = 0, max_steps = 0;
  std::optional<double> loss, val_loss;  // nats per token
  std::optional<double> lr, grad_norm;
  double tokens_per_s = 0;  // 0: unknown
  double eta_s = -1;        // seconds left; < 0: unknown
};

// One line without its end, at most `width` columns: fields are left out, the least needed first, until it fits (0: no
// limit). `bar` adds a bar where there is room.
std::string format_progress(const ProgressState& state, int width = 0, bool bar = false);

class Progress {
 public:
  // A run from `first_step` to `max_steps`. Writes to `out`; what it does there depends on whether that is a terminal.
  Progress(int64_t first_step, int64_t max_steps, std::FILE* out = stderr);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // After each step. `log`: this step ends a log interval and gets a plain line if `out` is no terminal. The time left
  // is filled in here. On a terminal the line is redrawn at most ten times a second.
  void update(ProgressState state, bool log);
  // A line of its own above the progress line: "saved checkpoints/step-1000.h5". Of any text (a sample): control
  // characters are written out (core/utf8.h).
  void note(std::string_view line);
  // Leaves the last state on the screen and ends the line.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  double seconds_left(int64_t step);
  void draw();
  void erase();

  int64_t max_steps_;
  std::FILE* out_;
  bool terminal_, drawn_ = false, finished_ = false;
  ProgressState last_;
  Clock::time_point last_draw_{}, last_time_;
  int64_t last_step_;
  double seconds_per_step_ = 0;  // exponential mean over about the last minute
};

}  // namespace basis::trainers
