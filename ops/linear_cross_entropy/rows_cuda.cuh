// The loss of 16-bit logits and its gradient over them, for rows that fit in shared memory. 4 bytes a logit have to
// move, and its two exponentials take half as long: so a row's pieces of 8 KB come by bulk copies that a warp of their
// own starts as soon as the row before has been read out of their places, while the others compute.
#pragma once

#include "core/cuda/hopper.cuh"
#include "core/cuda/reduce.cuh"
#include "core/cuda/vec.cuh"

namespace basis::ops {

using namespace core;

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T, class A>
__device__ __forceinline__ A exp_of(A x) {
  if constexpr (sizeof(T) == 2)
    return __expf(x);
  else
    return exp(x);
}

// exp(x - shift), the shift in the form that shift_of gives it.
template <class T, class A>
__device__ __forceinline__ A shift_of(A x) {
  return sizeof(T) == 2 ? x * A(1.4426950408889634) : x;
}
template <class T, class A>
__device__ __forceinline__ A exp_minus(A x, A shift) {
  if constexpr (sizeof(T) == 2)
    return exp2_approximate(fmaf(x, 1.4426950408889634f, -shift));
  else
    return exp(x - shift);
}

// The sum of exp(x - top) over what was added, and top, the largest of it.
template <class T, class A>
struct SumOfExp {
  A top = -A(INFINITY), sum = 0;

  __device__ __forceinline__ void add(const T* x, int count) {
    A m = top;
    for (int k = 0; k < count; ++k) m = fmax(m, widen(x[k]));  // passes over NaN, which shows in the sum
    if (m == -A(INFINITY)) {
      for (int k = 0; k < count; ++k)
        if (isnan(widen(x[k]))) sum = widen(x[k]);
      return;
    }
    A shift = shift_of<T>(m);
    sum *= exp_minus<T>(top, shift);
    for (int k = 0; k < count; ++k) sum += exp_minus<T>(widen(x[k]), shift);
    top = m;
  }
  __device__ __forceinline__ A below(A m) const { return sum != 0 ? sum * exp_minus<T>(top, shift_of<T>(m)) : sum; }
};

constexpr int kRowWarps = 16, kRowThreads = 32 * kRowWarps;
constexpr int kPiece = kRowThreads * 8, kMostPieces = 28;  // logits; 224 KB in all

// Hopper. logits [n, v], rows `stride` apart, v and stride in eights.
template <class T>
__global__ void __launch_bounds__(kRowThreads + 32, 2)
    rows_kernel(T* logits, const int32_t* targets, int32_t ignore, float* loss, int64_t n, int v, int64_t stride) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char row_memory[];
  __shared__ uint64_t full[kMostPieces], free[kMostPieces];
  __shared__ float tops[2][kRowWarps], sums[2][kRowWarps];
  T* z = reinterpret_cast<T*>(row_memory);
  int pieces = (v + kPiece - 1) / kPiece, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int p = 0; p < pieces; ++p) {
      hopper::barrier_init(hopper::shared_address(&full[p]), 1);
      hopper::barrier_init(hopper::shared_address(&free[p]), kRowWarps);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (warp == kRowWarps) {
    if (lane != 0) return;
    uint32_t turn = 0;
    for (int64_t row = blockIdx.x; row < n; row += gridDim.x, turn ^= 1)
      for (int p = 0; p < pieces; ++p) {
        uint32_t bar = hopper::shared_address(&full[p]), bytes = uint32_t(min(kPiece, v - p * kPiece) * sizeof(T));
        hopper::wait(hopper::shared_address(&free[p]), turn ^ 1);
        hopper::arrive_expect(bar, bytes);
        hopper::copy_bulk(hopper::shared_address(z + p * kPiece), logits + row * stride + p * kPiece, bytes, bar);
      }
    return;
  }
  uint32_t turn = 0;
  for (int64_t row = blockIdx.x; row < n; row += gridDim.x, turn ^= 1) {
    SumOfExp<T, float> mine;
    int target = targets[row];
    bool ignored = target == ignore;
    for (int p = 0, j = int(threadIdx.x) * 8; p < pieces; ++p, j += kPiece) {
      hopper::wait(hopper::shared_address(&full[p]), turn);
      if (j >= v) break;  // in the last piece
      Vec<T, 8> x = load_vec<8>(z + j);
      mine.add(x.v, 8);
    }
    float top = warp_reduce<Max>(mine.top), sum = warp_reduce<Sum>(mine.below(top));
    if (lane == 0) tops[turn][warp] = top, sums[turn][warp] = sum;
    hopper::named_sync(1, kRowThreads);
    top = -INFINITY, sum = 0;
#pragma unroll
    for (int w = 0; w < kRowWarps; ++w) top = fmaxf(top, tops[turn][w]);
#pragma unroll
    for (int w = 0; w < kRowWarps; ++w) sum += SumOfExp<T, float>{tops[turn][w], sums[turn][w]}.below(top);
    float log_sum = top + logf(sum);
    if (threadIdx.x == 0) loss[row] = ignored ? 0.0f : log_sum - widen(z[target]);
    float shift = shift_of<T>(log_sum);
    T* out = logits + row * stride;
    for (int p = 0, j = int(threadIdx.x) * 8; p < pieces; ++p, j += kPiece) {
      Vec<T, 8> x;
      if (j < v) x = load_vec<8>(z + j);
      __syncwarp();  // thread 0 has read the target's logit too
      if (lane == 0) hopper::arrive(hopper::shared_address(&free[p]));
      if (j >= v) continue;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        float slope = ignored ? 0.0f : exp_minus<T>(widen(x.v[k]), shift);
        if (j + k == target && !ignored) slope -= 1;
        x.v[k] = device_convert<T>(slope);
      }
      store_vec(out + j, x);
    }
    for (int64_t j = v + threadIdx.x; j < stride; j += kRowThreads) out[j] = device_convert<T>(0.0f);
  }
#endif
}

}  // namespace basis::ops
