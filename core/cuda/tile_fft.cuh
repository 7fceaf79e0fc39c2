// Complex FFTs of N = 2^log points in shared memory, `Columns` sequences side by side, by all threads of a block. Up to
// four radix-2 stages at a time in registers: decimation in frequency forwards (natural order in, bit-reversed out),
// decimation in time back (bit-reversed in, natural out, not normalised). Frequency f lies at place bit_reverse(f).
#pragma once

#include <cuda_runtime.h>

namespace basis::core {

__device__ __forceinline__ float2 complex_mul(float2 a, float2 b) {
  return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x};
}
__device__ __forceinline__ float2 conjugate(float2 a) { return {a.x, -a.y}; }

__device__ __forceinline__ int bit_reverse(int f, int log) { return log ? int(__brev(unsigned(f)) >> (32 - log)) : 0; }

template <int Columns>
struct TileFft {
  // One unused row after every 16 keeps strided rows in different banks.
  static __host__ __device__ constexpr int row(int i) { return i + (i >> 4); }
  static size_t shared_bytes(int log) { return sizeof(float2) * Columns * size_t(row((1 << log) - 1) + 1); }
  static __device__ __forceinline__ int at(int i, int column) { return row(i) * Columns + column; }

  // The stages of blocks of 2^log points out of 2^full; `twiddles` [2^full]: exp(-2 pi i j / 2^full).
  template <int K, bool Inverse>
  static __device__ __forceinline__ void stages(float2* x, const float2* twiddles, int log, int full) {
    constexpr int points = 1 << K;
    constexpr float c[8] = {1.0f, 0.92387953251128674f,  0.70710678118654752f,  0.38268343236508977f,
                            0.0f, -0.38268343236508977f, -0.70710678118654752f, -0.92387953251128674f};
    constexpr float s[8] = {0.0f,  -0.38268343236508977f, -0.70710678118654752f, -0.92387953251128674f,
                            -1.0f, -0.92387953251128674f, -0.70710678118654752f, -0.38268343236508977f};
    int column = threadIdx.x % Columns, q = 1 << (log - K);
    for (int b = threadIdx.x / Columns; b < 1 << (full - K); b += blockDim.x / Columns) {
      int j = b & (q - 1), base = ((b >> (log - K)) << log) + j;
      float2 v[points], w[K];
#pragma unroll
      for (int m = 0; m < points; ++m) v[m] = x[at(base + m * q, column)];
#pragma unroll
      for (int i = 0; i < K; ++i) w[i] = __ldg(&twiddles[(j << i) << (full - log)]);
#pragma unroll
      for (int i = 0; i < K; ++i) {
        int stage = Inverse ? K - 1 - i : i, span = points >> (stage + 1);
#pragma unroll
        for (int m = 0; m < points; ++m) {
          if (m & span) continue;
          int turn = (m & (span - 1)) * (8 / span);
          float2 t = complex_mul(w[stage], float2{c[turn], s[turn]}), a = v[m], d = v[m + span];
          if (Inverse) {
            d = complex_mul(d, conjugate(t));
            v[m] = {a.x + d.x, a.y + d.y}, v[m + span] = {a.x - d.x, a.y - d.y};
          } else {
            v[m] = {a.x + d.x, a.y + d.y}, v[m + span] = complex_mul({a.x - d.x, a.y - d.y}, t);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < points; ++m) x[at(base + m * q, column)] = v[m];
    }
    __syncthreads();
  }

  template <bool Inverse>
  static __device__ __forceinline__ void pass(float2* x, const float2* twiddles, int log, int full) {
    if (log >= 4) return stages<4, Inverse>(x, twiddles, log, full);
    if (log == 3) return stages<3, Inverse>(x, twiddles, log, full);
    if (log == 2) return stages<2, Inverse>(x, twiddles, log, full);
    stages<1, Inverse>(x, twiddles, log, full);
  }

  // The caller has filled x and synchronised; both end synchronised.
  static __device__ void forward(float2* x, const float2* twiddles, int full) {
    for (int log = full; log > 0; log -= 4) pass<false>(x, twiddles, log, full);
  }
  static __device__ void inverse(float2* x, const float2* twiddles, int full) {
    for (int log = full % 4 ? full % 4 : 4; log <= full; log += 4) pass<true>(x, twiddles, log, full);
  }
};

}  // namespace basis::core
