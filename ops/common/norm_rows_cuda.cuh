// A warp's rows in registers and shared memory, for the kernels of norm_cuda.cuh.
#pragma once

#include "core/cuda/copy_async.cuh"
#include "core/cuda/vec.cuh"

namespace basis::ops::norm {

using namespace core;
inline constexpr int kBackwardThreads = 128, kBackwardWarps = kBackwardThreads / 32;

// A row of `c` elements over the 32 lanes of a warp: Passes vectors of W elements each.
template <class T, int W, int Passes>
struct Row {
  Vec<T, W> v[Passes];

  static __device__ __forceinline__ int64_t column(int pass) { return (int64_t(pass) * 32 + threadIdx.x % 32) * W; }
  __device__ __forceinline__ void load(const T* p, int64_t c) {
#pragma unroll
    for (int i = 0; i < Passes; ++i)
      if (column(i) < c) v[i] = load_vec<W>(p + column(i));
  }
  __device__ __forceinline__ void store(T* p, int64_t c) const {
#pragma unroll
    for (int i = 0; i < Passes; ++i)
      if (column(i) < c) store_vec(p + column(i), v[i]);
  }
  // body(i, j): vector i, element j, of the columns that exist
  template <class Body>
  static __device__ __forceinline__ void each(int64_t c, Body&& body) {
#pragma unroll
    for (int i = 0; i < Passes; ++i)
      if (column(i) < c) {
#pragma unroll
        for (int j = 0; j < W; ++j) body(i, j);
      }
  }
};

// Two rows of x, dy and dsum for each lane of a block: what it copies there it reads back itself. 16 bytes a vector.
template <class T, int W, int Passes>
struct RowBuffers {
  using R = Row<T, W, Passes>;
  static constexpr size_t kBytes = size_t(kBackwardThreads) * 2 * 3 * Passes * sizeof(Vec<T, W>);
  Vec<T, W>* mine;

  __device__ explicit RowBuffers(void* shared) : mine(static_cast<Vec<T, W>*>(shared) + threadIdx.x) {}
  __device__ __forceinline__ Vec<T, W>& at(int row, int tensor, int pass) {
    return mine[((row * 3 + tensor) * Passes + pass) * kBackwardThreads];
  }
  __device__ __forceinline__ void fetch(int row, int tensor, const T* p, int64_t c) {
#pragma unroll
    for (int i = 0; i < Passes; ++i)
      if (R::column(i) < c) copy16_async(&at(row, tensor, i), p + R::column(i), true);
  }
  __device__ __forceinline__ void read(int row, int tensor, R& r, int64_t c) {
#pragma unroll
    for (int i = 0; i < Passes; ++i)
      if (R::column(i) < c) r.v[i] = at(row, tensor, i);
  }
};

}  // namespace basis::ops::norm
