// Data-parallel loops over the CPU's cores. One OpenMP pool serves these loops and OpenBLAS (its OpenMP build).
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace basis::core {

// Calls body(begin, end) on disjoint ranges covering [0, n), in parallel when n > grain. The split depends on n and the
// number of threads only, so a run is reproducible. An exception must not leave `body`.
template <class Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
  if (n <= grain || omp_in_parallel() || omp_get_max_threads() == 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  int threads = int(std::min<int64_t>(omp_get_max_threads(), (n + grain - 1) / grain));
#pragma omp parallel num_threads(threads)
  {
    int64_t t = omp_get_thread_num(), count = omp_get_num_threads();
    int64_t begin = n * t / count, end = n * (t + 1) / count;
    if (begin < end) body(begin, end);
  }
}

}  // namespace basis::core
