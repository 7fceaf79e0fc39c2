// Complex FFTs of N = 2^log points, N <= 4096, by all threads of a block, `Columns` sequences side by side. Up to four
// radix-2 stages at a time in registers, exchanged through shared memory. Forwards from natural to bit-reversed order:
// frequency f lies at place bit_reverse(f). Back from there, not normalised. Both are made of butterflies a +- t b, two
// of whose three steps are fused multiply-adds.
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
  // One unused row after every 16: rows 1 and 16 apart lie in different banks.
  static __host__ __device__ constexpr int row(int i) { return i + (i >> 4); }
  static size_t shared_bytes(int log) { return sizeof(float2) * Columns * size_t(row((1 << log) - 1) + 1); }
  static __device__ __forceinline__ int at(int i, int column) { return row(i) * Columns + column; }

  // w exp(-2 pi i turn / 16), turn < 8.
  static __device__ __forceinline__ float2 turned(float2 w, int turn) {
    constexpr float c[8] = {1.0f, 0.92387953251128674f,  0.70710678118654752f,  0.38268343236508977f,
                            0.0f, -0.38268343236508977f, -0.70710678118654752f, -0.92387953251128674f};
    constexpr float s[8] = {0.0f,  -0.38268343236508977f, -0.70710678118654752f, -0.92387953251128674f,
                            -1.0f, -0.92387953251128674f, -0.70710678118654752f, -0.38268343236508977f};
    return turn == 0 ? w : turn == 4 ? float2{w.y, -w.x} : complex_mul(w, float2{c[turn], s[turn]});
  }
  // a, b = a + t b, a - t b
  static __device__ __forceinline__ void butterfly(float2& a, float2& b, float2 t) {
    float2 sum{fmaf(-b.y, t.y, fmaf(b.x, t.x, a.x)), fmaf(b.y, t.x, fmaf(b.x, t.y, a.y))};
    b = {fmaf(2.0f, a.x, -sum.x), fmaf(2.0f, a.y, -sum.y)}, a = sum;
  }
  static __device__ __forceinline__ constexpr int reversed(int x, int bits) {  // at most 3 of them
    return bits < 2 ? x : bits == 2 ? (x & 1) << 1 | x >> 1 : (x & 1) << 2 | (x & 2) | x >> 2;
  }

  // K stages of blocks of Q 2^K points, a thread's points being Q apart. Unit: all twiddles are powers of
  // exp(-2 pi i / 16). Half: the upper half of each block is zero (forwards) or not wanted (back).
  template <int K, int Q, bool Inverse, bool Unit, bool Half, class Read, class Write>
  static __device__ __forceinline__ void stages(const float2* twiddles, int full, Read&& read, Write&& write) {
    constexpr int points = 1 << K, log = K + (Q == 1 ? 0 : Q == 16 ? 4 : 8);
    constexpr int in = Half && !Inverse ? points / 2 : points, out = Half && Inverse ? points / 2 : points;
    static_assert(Q == 1 || Q == 16 || Q == 256);
    for (int b = threadIdx.x / Columns; b < 1 << (full - K); b += blockDim.x / Columns) {
      int j = b % Q, block = b / Q, base = (block << log) + j;
      float2 v[points], w[K];
#pragma unroll
      for (int m = 0; m < in; ++m) v[m] = read(base, m);
      // Forwards a twiddle belongs to a block, back to a position in it.
      int place = bit_reverse(block, full - log);
#pragma unroll
      for (int i = 0; i < K; ++i)
        w[i] = Unit ? float2{1, 0} : __ldg(&twiddles[Inverse ? (j << i) << (full - log) : place << (log - i - 1)]);
#pragma unroll
      for (int i = 0; i < K; ++i) {
        int stage = Inverse ? K - 1 - i : i, span = points >> (stage + 1);
#pragma unroll
        for (int m = 0; m < points; ++m) {
          if (m & span) continue;
          int turn = Inverse ? (m & (span - 1)) * (8 / span) : reversed(m / (2 * span), i) * (8 >> i);
          float2 &a = v[m], &d = v[m + span];
          if (Half && !Inverse && i == 0) {
            d = a;  // Unit: the lower half, and zeros
          } else if (Unit && (turn == 0 || turn == 4)) {
            float2 x = turn == 0 ? d : Inverse ? float2{-d.y, d.x} : float2{d.y, -d.x};
            d = {a.x - x.x, a.y - x.y}, a = {a.x + x.x, a.y + x.y};
          } else {
            float2 t = turned(w[stage], turn);
            butterfly(a, d, Inverse ? conjugate(t) : t);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < out; ++m) write(base, m, v[m]);
    }
  }

  // The pass of the (log - 1) % 4 + 1 uppermost stages.
  template <int Q, bool Inverse, bool Unit, bool Half, class Read, class Write>
  static __device__ __forceinline__ void upper(const float2* twiddles, int full, Read&& read, Write&& write) {
    int k = (full - 1) % 4 + 1;
    if (k == 4) return stages<4, Q, Inverse, Unit, Half>(twiddles, full, read, write);
    if (k == 3) return stages<3, Q, Inverse, Unit, Half>(twiddles, full, read, write);
    if (k == 2) return stages<2, Q, Inverse, Unit, Half>(twiddles, full, read, write);
    stages<1, Q, Inverse, Unit, Half>(twiddles, full, read, write);
  }

  // Access to shared memory, and to the caller's rows, in a pass whose points are Q apart.
  template <int Q>
  static __device__ __forceinline__ auto reader(const float2* x) {
    return [x, column = int(threadIdx.x % Columns)](int base, int m) {
      return x[at(base, column) + m * (Q == 1 ? 1 : Q + Q / 16) * Columns];
    };
  }
  template <int Q>
  static __device__ __forceinline__ auto writer(float2* x) {
    return [x, column = int(threadIdx.x % Columns)](int base, int m, float2 v) {
      x[at(base, column) + m * (Q == 1 ? 1 : Q + Q / 16) * Columns] = v;
    };
  }
  template <int Q, class Load>
  static __device__ __forceinline__ auto from(Load&& load) {
    return [&load](int base, int m) { return load(base + m * Q); };
  }
  template <int Q, class Store>
  static __device__ __forceinline__ auto to(Store&& store) {
    return [&store](int base, int m, float2 v) { store(base + m * Q, v); };
  }

  // load(i) gives this thread's column (threadIdx.x % Columns) at i < N, or i < N / 2 of a sequence that is zero beyond
  // (Half); store(place, value) takes its spectrum. x: shared_bytes, unused before.
  template <bool Half, class Load, class Store>
  static __device__ __forceinline__ void forward(float2* x, const float2* twiddles, int full, Load&& load,
                                                 Store&& store) {
    if (full <= 4) return upper<1, false, true, Half>(twiddles, full, from<1>(load), to<1>(store));
    if (full <= 8) {
      upper<16, false, true, Half>(twiddles, full, from<16>(load), writer<16>(x));
    } else {
      upper<256, false, true, Half>(twiddles, full, from<256>(load), writer<256>(x));
      __syncthreads();
      stages<4, 16, false, false, false>(twiddles, full, reader<16>(x), writer<16>(x));
    }
    __syncthreads();
    stages<4, 1, false, false, false>(twiddles, full, reader<1>(x), to<1>(store));
  }

  // load(place) gives the spectrum; store(i, value) takes i < N / 2 (Half) or i < N.
  template <bool Half, class Load, class Store>
  static __device__ __forceinline__ void inverse(float2* x, const float2* twiddles, int full, Load&& load,
                                                 Store&& store) {
    if (full <= 4) return upper<1, true, true, Half>(twiddles, full, from<1>(load), to<1>(store));
    stages<4, 1, true, true, false>(twiddles, full, from<1>(load), writer<1>(x));
    __syncthreads();
    if (full <= 8) return upper<16, true, false, Half>(twiddles, full, reader<16>(x), to<16>(store));
    stages<4, 16, true, false, false>(twiddles, full, reader<16>(x), writer<16>(x));
    __syncthreads();
    upper<256, true, false, Half>(twiddles, full, reader<256>(x), to<256>(store));
  }
};

}  // namespace basis::core
