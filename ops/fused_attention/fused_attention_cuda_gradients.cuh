// The pointwise part of the tensor-core backward kernels, on scores as they lie in accumulators: p = e^(s - lse) over
// the raw products s = q k^T, and ds = p (dp - delta), without the scale, which dq and dk take at the end.
#pragma once

#include "ops/fused_attention/fused_attention_cuda_mma.cuh"

namespace basis::ops::fused {

// Transposed scores: a warp's rows are keys from key0 on, the columns queries from row0 on. masked: some are hidden.
struct KeyTile {
  const Call& call;
  int b, h, keys, row0, key0;
  bool masked;

  // s becomes p. lse: of the tile's queries.
  template <int M, int N>
  __device__ __forceinline__ void probabilities(Accumulators<M, N>& s, const float* lse) const {
    int lane = threadIdx.x % 32;
    float scale = float(call.scale) * kLog2e;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        int row = n * 8 + lane % 4 * 2 + e;
        float shift = lse[row] * kLog2e;
        Seen seen{};
        if (masked && row0 + row < call.T) seen = call.seen(keys, row0 + row);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& x = s[m][n][half * 2 + e];
            x = exp2_fast(x * scale - shift);
            if (masked && !seen.contains(key0 + m * 16 + half * 8 + lane / 4)) x = 0;
          }
      }
  }

  __device__ __forceinline__ void factors(int m, int n, float (&f)[4]) const {
    factors_by_keys(call, call.row(b, h, row0 + n * 8), key0 + m * 16, f);
  }
  template <int M, int N>
  __device__ __forceinline__ void drop(Accumulators<M, N>& p) const {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float f[4];
        factors(m, n, f);
#pragma unroll
        for (int e = 0; e < 4; ++e) p[m][n][e] *= f[e];
      }
  }

  // dp becomes ds. Dropout: p is multiplied by its factors afterwards.
  template <bool Dropout, int M, int N>
  __device__ __forceinline__ void gradients(Accumulators<M, N>& dp, Accumulators<M, N>& p, const float* delta) const {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float2 d = *reinterpret_cast<const float2*>(&delta[n * 8 + lane % 4 * 2]);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        float f[4] = {1, 1, 1, 1};
        if constexpr (Dropout) factors(m, n, f);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          dp[m][n][e] = p[m][n][e] * (dp[m][n][e] * f[e] - (e % 2 ? d.y : d.x));
          if constexpr (Dropout) p[m][n][e] *= f[e];
        }
      }
    }
  }
};

// A warp's rows are queries from row0 on, the columns keys from k0 on.
struct QueryTile {
  const Call& call;
  int b, h, keys, row0, k0;
  bool masked;

  template <int M, int N>
  __device__ __forceinline__ void probabilities(Accumulators<M, N>& s, const float (&lse)[M][2]) const {
    int lane = threadIdx.x % 32;
    float scale = float(call.scale) * kLog2e;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float shift = lse[m][half] * kLog2e;
        Seen seen{};
        if (masked) seen = call.seen(keys, row0 + m * 16 + half * 8 + lane / 4);
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[m][n][half * 2 + e];
            x = exp2_fast(x * scale - shift);
            if (masked && !seen.contains(k0 + n * 8 + lane % 4 * 2 + e)) x = 0;
          }
      }
  }

  // dp becomes ds.
  template <bool Dropout, int M, int N>
  __device__ __forceinline__ void gradients(Accumulators<M, N>& dp, const Accumulators<M, N>& p,
                                            const float (&delta)[M][2]) const {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float f[4] = {1, 1, 1, 1};
        if constexpr (Dropout)
          factors_by_queries(call, call.row(b, h, row0 + m * 16 + int(threadIdx.x) % 32 / 4), k0 + n * 8, f);
#pragma unroll
        for (int e = 0; e < 4; ++e) dp[m][n][e] = p[m][n][e] * (dp[m][n][e] * f[e] - delta[m][e / 2]);
      }
  }
};

// lse and delta of this lane's rows of a warp's queries from row0 on; of the last row beyond the end.
template <int M>
__device__ __forceinline__ void load_statistics(const Call& call, const Pointers& pointers, int b, int h, int row0,
                                                float (&lse)[M][2], float (&delta)[M][2]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int i = min(row0 + m * 16 + half * 8 + int(threadIdx.x) % 32 / 4, call.T - 1);
      lse[m][half] = static_cast<const float*>(pointers.lse)[call.row(b, h, i)];
      delta[m][half] = static_cast<const float*>(pointers.delta)[call.row(b, h, i)];
    }
}

}  // namespace basis::ops::fused
