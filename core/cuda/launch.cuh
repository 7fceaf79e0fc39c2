// Kernel launches on a device's current stream, checked. A grid of no blocks is no launch.
#pragma once

#include <algorithm>
#include <utility>

#include "core/cuda/check.h"
#include "core/cuda/convert.cuh"
#include "core/cuda/reduce.cuh"
#include "core/cuda/vec.cuh"
#include "core/stream.h"
#include "core/tensor.h"

namespace basis::core {

inline cudaStream_t cuda_stream(Device device) {
  return static_cast<cudaStream_t>(current_stream(device.index).handle);
}

// `shared` bytes of dynamic shared memory, rounded up to 16: the compiler may read the rest of the last 16 unused.
template <class... Params, class... Args>
void launch_shared(void (*kernel)(Params...), Device device, dim3 grid, int threads, size_t shared, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaStream_t stream = cuda_stream(device);  // also makes the device current
  shared = (shared + 15) / 16 * 16;
  if (shared > 48 * 1024)
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  kernel<<<grid, threads, shared, stream>>>(std::forward<Args>(args)...);
  CUDA_CHECK(cudaGetLastError());
}

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), Device device, int64_t blocks, int threads, Args&&... args) {
  if (blocks <= 0) return;
  if (blocks > 0x7fffffff) throw Error({.where = "cuda", .expected = "at most 2^31 - 1 blocks"});
  launch_shared(kernel, device, dim3(unsigned(blocks)), threads, 0, std::forward<Args>(args)...);
}

// Blocks that a device of 132 multiprocessors runs at once.
template <class... Params>
int64_t resident_blocks(void (*kernel)(Params...), int threads) {
  int each = 0;
  CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, 0));
  return 132 * std::max(1, each);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of a grid-stride loop over n items: enough to fill the device, no more.
inline int64_t grid_for(int64_t n, int threads) { return std::min<int64_t>(ceil_div(n, threads), 132 * 16); }

template <class Body>
__device__ __forceinline__ void grid_stride(int64_t n, Body&& body) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) body(i);
}

}  // namespace basis::core
