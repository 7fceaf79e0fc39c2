// basis bench allreduce.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace basis::trainers {

struct AllReduceBench {
  std::string device = "auto", backend = "auto";
  std::vector<int64_t> bytes = {4096, 65536, 1 << 20, 16 << 20, 128 << 20};
  int64_t repeats = 20;
  bool json = false;
};

// In each rank of the launch (--gpus, --ranks, torchrun, mpirun, srun). Prints a table on rank 0.
void bench_allreduce(const AllReduceBench& options);

}  // namespace basis::trainers
