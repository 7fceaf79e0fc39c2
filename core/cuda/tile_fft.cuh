// Complex FFTs of N = 2^log points by all threads of a block, `Columns` sequences side by side. Up to four radix-2
// stages at a time in registers, exchanged through shared memory: decimation in frequency forwards (natural order in,
// bit-reversed out), decimation in time back (bit-reversed in, natural out, not normalised). Frequency f lies at place
// bit_reverse(f).
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
  // Rows are permuted within fours, so that rows 1, 8 and 16 apart lie in different banks.
  static size_t shared_bytes(int log) { return sizeof(float2) * Columns << log; }
  static __device__ __forceinline__ int at(int i, int column) {
    return (i ^ (((i >> 3) ^ (i >> 4)) & 3)) * Columns + column;
  }

  // K stages of blocks of 2^log points out of 2^full; `twiddles` [2^full]: exp(-2 pi i j / 2^full). Half: the upper
  // half of each block is zero (forwards) or not wanted (back), and neither read nor written.
  template <int K, bool Inverse, bool Half, class Read, class Write>
  static __device__ __forceinline__ void stages(const float2* twiddles, int log, int full, Read&& read, Write&& write) {
    constexpr int points = 1 << K, in = Half && !Inverse ? points / 2 : points,
                  out = Half && Inverse ? points / 2 : points;
    constexpr float c[8] = {1.0f, 0.92387953251128674f,  0.70710678118654752f,  0.38268343236508977f,
                            0.0f, -0.38268343236508977f, -0.70710678118654752f, -0.92387953251128674f};
    constexpr float s[8] = {0.0f,  -0.38268343236508977f, -0.70710678118654752f, -0.92387953251128674f,
                            -1.0f, -0.92387953251128674f, -0.70710678118654752f, -0.38268343236508977f};
    int q = 1 << (log - K);
    for (int b = threadIdx.x / Columns; b < 1 << (full - K); b += blockDim.x / Columns) {
      int j = b & (q - 1), base = ((b >> (log - K)) << log) + j;
      float2 v[points], w[K];
#pragma unroll
      for (int m = 0; m < in; ++m) v[m] = read(base + m * q);
#pragma unroll
      for (int i = 0; i < K; ++i) w[i] = __ldg(&twiddles[(j << i) << (full - log)]);
#pragma unroll
      for (int i = 0; i < K; ++i) {
        int stage = Inverse ? K - 1 - i : i, span = points >> (stage + 1);
#pragma unroll
        for (int m = 0; m < points; ++m) {
          if (m & span) continue;
          int turn = (m & (span - 1)) * (8 / span);
          float2 t = complex_mul(w[stage], float2{c[turn], s[turn]}), a = v[m];
          if (Inverse) {
            float2 d = complex_mul(v[m + span], conjugate(t));
            v[m] = {a.x + d.x, a.y + d.y};
            if (i + 1 < K || m + span < out) v[m + span] = {a.x - d.x, a.y - d.y};
          } else if (m + span < in || i > 0) {
            float2 d = v[m + span];
            v[m] = {a.x + d.x, a.y + d.y}, v[m + span] = complex_mul({a.x - d.x, a.y - d.y}, t);
          } else {
            v[m + span] = complex_mul(a, t);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < out; ++m) write(base + m * q, v[m]);
    }
  }

  template <bool Inverse, bool Half, class Read, class Write>
  static __device__ __forceinline__ void some(int k, const float2* twiddles, int log, int full, Read&& read,
                                              Write&& write) {
    if (k == 4) return stages<4, Inverse, Half>(twiddles, log, full, read, write);
    if (k == 3) return stages<3, Inverse, Half>(twiddles, log, full, read, write);
    if (k == 2) return stages<2, Inverse, Half>(twiddles, log, full, read, write);
    stages<1, Inverse, Half>(twiddles, log, full, read, write);
  }

  // load(i) gives this thread's column (threadIdx.x % Columns) at i < N, or i < N / 2 of a sequence that is zero beyond
  // (Half); store(place, value) takes its spectrum. x: shared_bytes, unused before.
  template <bool Half, class Load, class Store>
  static __device__ __forceinline__ void forward(float2* x, const float2* twiddles, int full, Load&& load,
                                                 Store&& store) {
    int column = threadIdx.x % Columns, log = full - 4;
    auto read = [&](int i) { return x[at(i, column)]; };
    auto write = [&](int i, float2 v) { x[at(i, column)] = v; };
    if (log <= 0) return some<false, Half>(full, twiddles, full, full, load, store);
    stages<4, false, Half>(twiddles, full, full, load, write);
    __syncthreads();
    for (; log > 4; log -= 4) {
      stages<4, false, false>(twiddles, log, full, read, write);
      __syncthreads();
    }
    some<false, false>(log, twiddles, log, full, read, store);
  }

  // load(place) gives the spectrum; store(i, value) takes i < N / 2 (Half) or i < N.
  template <bool Half, class Load, class Store>
  static __device__ __forceinline__ void inverse(float2* x, const float2* twiddles, int full, Load&& load,
                                                 Store&& store) {
    int column = threadIdx.x % Columns, log = 4;
    auto read = [&](int i) { return x[at(i, column)]; };
    auto write = [&](int i, float2 v) { x[at(i, column)] = v; };
    if (full <= 4) return some<true, Half>(full, twiddles, full, full, load, store);
    stages<4, true, false>(twiddles, log, full, load, write);
    __syncthreads();
    for (log += 4; log < full; log += 4) {
      stages<4, true, false>(twiddles, log, full, read, write);
      __syncthreads();
    }
    some<true, Half>(full - log + 4, twiddles, full, full, read, store);
  }
};

}  // namespace basis::core
