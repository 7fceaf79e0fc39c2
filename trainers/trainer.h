// The training loop: steps, logs, evaluations, samples, checkpoints, and a tidy end whatever ends it.
#pragma once

#include "configs/train_config.h"

namespace basis::trainers {

// Trains by the config and returns the process exit code: 0 when max_steps or max_wall_time was reached, 3 when the
// loss became non-finite under on_nonfinite: stop, 128 + n when signal n stopped it (after saving).
int train(const configs::Config& config);

// What `--dry-run` prints: the resolved config, the parameter count and an estimate of the memory a step takes.
std::string describe_run(const configs::Config& config);

}  // namespace basis::trainers
