// Backward is deterministic without atomics: a stable radix sort (CUB) brings the positions of each id together, and
// the block at the first of them adds up its rows: warp w takes every so-manieth, and the warps are added in order. Ids
// are not range-checked here.
#include <cub/device/device_radix_sort.cuh>

#include "core/basic/basic.h"
#include "core/cuda/launch.cuh"
#include "ops/embedding/embedding.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 128, kWarps = 8, kColumns = 256;

template <class T>
__global__ void token_kernel(const T* table, const int32_t* ids, const T* positions, int64_t first, int64_t time, T* y,
                             int64_t c) {
  int64_t n = blockIdx.x;
  const T *token = table + ids[n] * c, *position = positions ? positions + (first + n % time) * c : nullptr;
  for (int64_t j = threadIdx.x; j < c; j += kThreads)
    y[n * c + j] = position ? device_convert<T>(widen(token[j]) + widen(position[j])) : token[j];
}

// ids [n] sorted, positions [n] where each came from. One block per entry; only those at the start of a run work.
template <class T>
__global__ void __launch_bounds__(32 * kWarps)
    table_kernel(const T* dy, const int32_t* ids, const int32_t* positions, int64_t n, T* dtable, int64_t c) {
  using A = Accumulator<T>;
  int64_t first = blockIdx.x;
  int32_t id = ids[first];
  if (first > 0 && ids[first - 1] == id) return;
  __shared__ A part[kWarps][kColumns];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t from = 0; from < c; from += kColumns) {
    A sum[kColumns / 32] = {};
    for (int64_t i = first + warp; i < n && ids[i] == id; i += kWarps) {
      const T* row = dy + positions[i] * c;
#pragma unroll
      for (int k = 0; k < kColumns / 32; ++k) {
        int64_t j = from + k * 32 + lane;
        if (j < c) sum[k] += widen(row[j]);
      }
    }
#pragma unroll
    for (int k = 0; k < kColumns / 32; ++k) part[warp][k * 32 + lane] = sum[k];
    __syncthreads();
    for (int k = threadIdx.x; k < kColumns && from + k < c; k += 32 * kWarps) {
      A total = 0;
      for (int w = 0; w < kWarps; ++w) total += part[w][k];
      dtable[id * c + from + k] = device_convert<T>(total);
    }
    __syncthreads();
  }
}

__global__ void count_kernel(int32_t* positions, int64_t n) {
  grid_stride(n, [&](int64_t i) { positions[i] = int32_t(i); });
}

struct Sorted {
  Tensor ids, positions;
};
Sorted sort_ids(const Tensor& ids, int64_t vocabulary) {
  Device device = ids.device();
  int64_t n = ids.numel();
  Tensor counted = Tensor::empty({n}, DType::i32, device);
  Sorted s{counted.empty_like(), counted.empty_like()};
  launch(count_kernel, device, grid_for(n, 256), 256, counted.data<int32_t>(), n);
  int bits = std::bit_width(uint64_t(std::max<int64_t>(1, vocabulary - 1)));
  size_t bytes = 0;
  auto sort = [&](void* scratch) {
    CUDA_CHECK(cub::DeviceRadixSort::SortPairs(scratch, bytes, ids.data<int32_t>(), s.ids.data<int32_t>(),
                                               counted.data<int32_t>(), s.positions.data<int32_t>(), int(n), 0, bits,
                                               cuda_stream(device)));
  };
  sort(nullptr);
  Tensor scratch = Tensor::empty({int64_t(bytes + 3) / 4}, DType::i32, device);
  sort(scratch.raw());
  return s;
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
  launch(token_kernel<T>, y.device(), ids.numel(), kThreads, table.data<T>(), ids.data<int32_t>(),
         positions ? positions.data<T>() : nullptr, first, time, y.data<T>(), table.size(1));
}
template <class T>
void backward(const Tensor& dy, const Tensor& ids, int64_t first, int64_t time, const Tensor& dtable,
              const Tensor& dpositions) {
  int64_t c = dy.size(-1), n = ids.numel();
  if (dtable) {
    fill(dtable, 0);
    Sorted s = sort_ids(ids, dtable.size(0));
    launch(table_kernel<T>, dy.device(), n, 32 * kWarps, dy.data<T>(), s.ids.data<int32_t>(),
           s.positions.data<int32_t>(), n, dtable.data<T>(), c);
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
