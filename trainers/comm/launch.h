// How this process became one rank of a run, and how the ranks find each other.
//
// Explicit flags (`--gpus N`, `--ranks N`: this program starts the ranks itself), then torchrun's variables (RANK,
// WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; also for several hosts by hand), then MPI's, then SLURM's, then one
// process. A group of which a variable is missing is a core::Error (usage) that names it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "configs/train_config.h"
#include "trainers/comm/communicator.h"

namespace basis::trainers {

struct Launch {
  std::string by = "one process";
  int rank = 0, size = 1, local_rank = 0;
  bool mpi = false;    // started by mpirun or mpiexec: MPI can be used
  std::string master;  // host of rank 0; empty when MPI brings the ranks together
  int port = 0;
  int listener = -1;  // rank 0: a descriptor that already listens there
};

using Environment = std::function<const char*(const char* name)>;
Launch find_launch(const Environment& environment);
Launch find_launch();  // of this process

// The group of this run. Prints who joined (on rank 0). Must be called before the first use of a GPU, since it shows
// this process its own GPU alone. Throws core::Error: usage for what was started wrongly, rank_lost for ranks that do
// not come within dist.timeout_s (they are named).
CommunicatorPtr join(const configs::Config& config, const Launch& launch);

// Joins `launch.size` ranks over TCP: rank 0 listens at master:port.
CommunicatorPtr tcp_communicator(const Launch& launch, double timeout_s);

// Starts `count` copies of this program as ranks of one run on this host and waits for them: 0 when all succeeded, else
// the first failure's exit code (5 for a rank that a signal killed). SIGTERM and SIGINT are passed on; ranks that
// outlive another by more than `timeout_s` are killed.
int run_local_ranks(int count, bool gpus, double timeout_s);
bool is_local_rank();  // whether run_local_ranks started this process

}  // namespace basis::trainers
