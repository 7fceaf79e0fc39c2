// Reductions over a warp and a block; each gives every thread the result, in a fixed order.
#pragma once

#include <cuda_runtime.h>

namespace basis::core {

struct Sum {
  template <class T>
  static __device__ __forceinline__ T identity() {
    return T(0);
  }
  template <class T>
  static __device__ __forceinline__ T apply(T a, T b) {
    return a + b;
  }
};
struct Max {
  template <class T>
  static __device__ __forceinline__ T identity() {
    return -T(INFINITY);
  }
  template <class T>
  static __device__ __forceinline__ T apply(T a, T b) {
    return a > b || a != a ? a : b;  // NaN wins
  }
};

template <class Op, class T>
__device__ __forceinline__ T warp_reduce(T x) {
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) x = Op::apply(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// All threads of the block must call; Threads = blockDim.x, a multiple of 32. Safe to call repeatedly.
template <class Op, int Threads, class T>
__device__ __forceinline__ T block_reduce(T x) {
  x = warp_reduce<Op>(x);
  if constexpr (Threads > 32) {
    __shared__ T partial[Threads / 32];
    __syncthreads();  // an earlier call's readers are done
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < Threads / 32 ? partial[threadIdx.x % 32] : Op::template identity<T>();
    x = warp_reduce<Op>(x);
  }
  return x;
}

}  // namespace basis::core
