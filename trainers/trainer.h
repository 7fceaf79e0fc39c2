// The training loop: steps, logs, evaluations, samples, checkpoints, and a tidy end whatever ends it.
#pragma once

#include "configs/train_config.h"
#include "trainers/comm/communicator.h"

namespace basis::trainers {

// Trains by the config and returns the process exit code: 0 when max_steps or max_wall_time was reached, 3 when the
// loss became non-finite under on_nonfinite: stop, 128 + n when signal n stopped it (after saving).
// Every rank of `comm` calls it; rank 0 alone writes files. Throws core::Error (rank_lost) naming the rank and the last
// step when one goes away.
int train(const configs::Config& config, CommunicatorPtr comm = null_communicator());

// What `--dry-run` prints: the resolved config, the parameter count and an estimate of the memory a step takes.
std::string describe_run(const configs::Config& config);

}  // namespace basis::trainers
