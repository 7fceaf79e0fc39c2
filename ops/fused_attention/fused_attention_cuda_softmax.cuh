// The softmax of the tensor-core forward kernels, on scores as they lie in accumulators: 16 M rows of a warp, 8 N keys.
#pragma once

#include "ops/fused_attention/fused_attention_cuda_mma.cuh"

namespace basis::ops::fused {

// s[..] = -infinity where a row does not see the key. row0: this warp's first.
template <int M, int N>
__device__ __forceinline__ void hide(Accumulators<M, N>& s, const Call& call, int keys, int row0, int k0) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Seen seen = call.seen(keys, row0 + m * 16 + half * 8 + lane / 4);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (!seen.contains(k0 + n * 8 + lane % 4 * 2 + e)) s[m][n][half * 2 + e] = -INFINITY;
    }
}

// The running softmax of this lane's rows: s becomes e^(s - top) and sum follows; what came before is to be multiplied
// by `before`. `scale` in units of log 2. `sum` holds this lane's columns only.
template <int M, int N>
__device__ __forceinline__ void online_softmax(Accumulators<M, N>& s, float (&top)[M][2], float (&sum)[M][2],
                                               float (&before)[M][2], float scale) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = top[m][half];
#pragma unroll
      for (int n = 0; n < N; ++n) highest = fmaxf(highest, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
      float shift = highest == -INFINITY ? 0.0f : highest * scale;
      float rescale = exp2_fast(top[m][half] * scale - shift), added = 0;
      before[m][half] = rescale;
      top[m][half] = highest;
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = half * 2; e < half * 2 + 2; ++e) {
          s[m][n][e] = exp2_fast(s[m][n][e] * scale - shift);
          added += s[m][n][e];
        }
      sum[m][half] = sum[m][half] * rescale + added;
    }
}

template <int M, int N>
__device__ __forceinline__ void multiply_rows(Accumulators<M, N>& c, const float (&by)[M][2]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[m][n][e] *= by[m][e / 2];
}

// `row`: of lse, this warp's first.
template <int M, int N>
__device__ __forceinline__ void drop(Accumulators<M, N>& p, const Call& call, int64_t row, int k0) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float f[4];
      factors_by_queries(call, row + m * 16 + int(threadIdx.x) % 32 / 4, k0 + n * 8, f);
#pragma unroll
      for (int e = 0; e < 4; ++e) p[m][n][e] *= f[e];
    }
}

// Writes the log-sum-exp of this warp's rows, from row0 on, and gives 1 / sum for the outputs.
template <int M>
__device__ __forceinline__ void finish_softmax(const Call& call, float* lse, int b, int h, int row0,
                                               const float (&top)[M][2], const float (&sum)[M][2],
                                               float (&inverse)[M][2]) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      inverse[m][half] = total > 0 ? 1 / total : 0.0f;
      int i = row0 + m * 16 + half * 8 + lane / 4;
      if (lane % 4 == 0 && i < call.T)
        lse[call.row(b, h, i)] = total > 0 ? top[m][half] * float(call.scale) + logf(total) : -INFINITY;
    }
}

}  // namespace basis::ops::fused
