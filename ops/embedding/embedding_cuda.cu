// Backward is deterministic without atomics: the block of an id's first occurrence adds up all of its occurrences in
// order; the other blocks stop. Reads about N^2 / 2 ids, from cache. Ids are not range-checked here.
#include "core/basic/basic.h"
#include "core/cuda/launch.cuh"
#include "ops/embedding/embedding.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 128;

template <class T>
__global__ void forward_kernel(const T* table, const int32_t* ids, const T* positions, int64_t first, int64_t time,
                               T* y, int64_t c) {
  int64_t n = blockIdx.x;
  const T *token = table + ids[n] * c, *position = positions ? positions + (first + n % time) * c : nullptr;
  for (int64_t j = threadIdx.x; j < c; j += kThreads)
    y[n * c + j] = position ? device_convert<T>(widen(token[j]) + widen(position[j])) : token[j];
}

template <class T>
__global__ void table_kernel(const T* dy, const int32_t* ids, int64_t n, T* dtable, int64_t c) {
  int64_t i = blockIdx.x;
  int32_t id = ids[i];
  for (int64_t tile = 0; tile < i; tile += kThreads) {
    int64_t j = tile + threadIdx.x;
    if (__syncthreads_or(j < i && ids[j] == id)) return;
  }
  for (int64_t first = 0; first < c; first += kThreads) {
    int64_t column = first + threadIdx.x;
    Accumulator<T> sum = 0;
    for (int64_t tile = i; tile < n; tile += kThreads) {
      int64_t mine = tile + threadIdx.x;
      if (!__syncthreads_or(mine < n && ids[mine] == id)) continue;
      int64_t end = tile + kThreads < n ? tile + kThreads : n;
      if (column < c)
        for (int64_t j = tile; j < end; ++j)
          if (ids[j] == id) sum += widen(dy[j * c + column]);
    }
    if (column < c) dtable[id * c + column] = device_convert<T>(sum);
  }
}

template <class T>
__global__ void position_kernel(const T* dy, int64_t first, int64_t time, int64_t batch, T* dpositions, int64_t c,
                                int64_t n) {
  grid_stride(n, [&](int64_t at) {
    int64_t t = at / c - first, j = at % c;
    Accumulator<T> sum = 0;
    if (t >= 0 && t < time)
      for (int64_t b = 0; b < batch; ++b) sum += widen(dy[(b * time + t) * c + j]);
    dpositions[at] = device_convert<T>(sum);
  });
}

template <class T>
void forward(const Tensor& table, const Tensor& ids, const Tensor& positions, int64_t first, int64_t time,
             const Tensor& y) {
  launch(forward_kernel<T>, y.device(), ids.numel(), kThreads, table.data<T>(), ids.data<int32_t>(),
         positions ? positions.data<T>() : nullptr, first, time, y.data<T>(), table.size(1));
}
template <class T>
void backward(const Tensor& dy, const Tensor& ids, int64_t first, int64_t time, const Tensor& dtable,
              const Tensor& dpositions) {
  int64_t c = dy.size(-1), n = ids.numel();
  if (dtable) {
    fill(dtable, 0);
    launch(table_kernel<T>, dy.device(), n, kThreads, dy.data<T>(), ids.data<int32_t>(), n, dtable.data<T>(), c);
  }
  if (dpositions)
    launch(position_kernel<T>, dy.device(), grid_for(dpositions.numel(), kThreads), kThreads, dy.data<T>(), first, time,
           time ? n / time : 0, dpositions.data<T>(), c, dpositions.numel());
}

template <class T>
bool add_kernels() {
  return embedding_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         embedding_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
