// The learning rate of each step.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "configs/train_config.h"

namespace basis::trainers {

// Step counts from 0. Warm-up rises linearly and reaches lr at step warmup_steps.
inline double learning_rate(const configs::Config& c, int64_t step) {
  const auto& s = c.schedule;
  double lr = c.optimizer.lr, low = s.min_lr, warmup = double(s.warmup_steps), now = double(step);
  if (now < warmup) return lr * (now + 1) / (warmup + 1);
  if (s.type == "constant") return lr;
  double last = double(s.decay_steps ? s.decay_steps : c.train.max_steps);
  if (s.type == "wsd") {
    last = double(c.train.max_steps);
    double length = double(s.decay_steps ? s.decay_steps : std::max<int64_t>(1, c.train.max_steps / 5));
    return now < last - length ? lr : std::max(low, lr + (low - lr) * (now - (last - length)) / length);
  }
  double x = last > warmup ? std::min(1.0, (now - warmup) / (last - warmup)) : 1;
  if (s.type == "linear") return lr + (low - lr) * x;
  return low + 0.5 * (lr - low) * (1 + std::cos(std::numbers::pi * x));
}

}  // namespace basis::trainers
