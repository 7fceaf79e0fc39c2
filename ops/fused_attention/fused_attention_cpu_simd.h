// Vectors, packed panels and the micro-kernel of CPU attention, for vectors of `Bytes`: compiler vector extensions, so
// the same code becomes AVX-512, AVX2 or the baseline. Included by one file per width, which sets the target.
#pragma once

#include <cstdint>
#include <utility>

#include "ops/fused_attention/fused_attention_cpu.h"

namespace basis::ops::cpu_attention {

template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using type = int32_t;
};
template <>
struct IntegerOf<double> {
  using type = int64_t;
};

template <class T, int Bytes>
struct Simd {
  using Element = T;
  typedef T Vector __attribute__((vector_size(Bytes)));
  typedef T Unaligned __attribute__((vector_size(Bytes), aligned(sizeof(T)), may_alias));
  typedef typename IntegerOf<T>::type Bits __attribute__((vector_size(Bytes)));
  static constexpr int kLanes = Bytes / int(sizeof(T));
  static constexpr int kWidth = 2 * kLanes;           // columns of a panel
  static constexpr int kGroup = Bytes == 64 ? 8 : 4;  // rows of the micro-kernel: 16 or 8 accumulators
  using Lanes = std::make_integer_sequence<int, kLanes>;

  [[gnu::always_inline]] static inline Vector load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  [[gnu::always_inline]] static inline void store(T* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
  [[gnu::always_inline]] static inline Vector max(Vector a, Vector b) { return a > b ? a : b; }

  template <int Shift, int... I>
  [[gnu::always_inline]] static inline Vector rotate(Vector a, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, a, (I + Shift) % kLanes...);
  }
  template <int From, int... I>  // a[From], b[From], a[From + 1], b[From + 1], ...
  [[gnu::always_inline]] static inline Vector interleave(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I % 2 ? kLanes : 0) + I / 2 + From...);
  }
  template <int Shift = kLanes / 2>
  [[gnu::always_inline]] static inline T largest(Vector v) {
    if constexpr (Shift == 0) {
      return v[0];
    } else {
      return largest<Shift / 2>(max(v, rotate<Shift>(v, Lanes{})));
    }
  }
  template <int Shift = kLanes / 2>
  [[gnu::always_inline]] static inline T sum(Vector v) {
    if constexpr (Shift == 0) {
      return v[0];
    } else {
      return sum<Shift / 2>(v + rotate<Shift>(v, Lanes{}));
    }
  }

  // r[i][j] <-> r[j][i] by log2(kLanes) rounds of interleaving.
  [[gnu::always_inline]] static inline void transpose(Vector (&r)[kLanes]) {
    for (int round = 1; round < kLanes; round *= 2) {
      Vector t[kLanes];
#pragma GCC unroll 8
      for (int i = 0; i < kLanes / 2; ++i) {
        t[2 * i] = interleave<0>(r[i], r[i + kLanes / 2], Lanes{});
        t[2 * i + 1] = interleave<kLanes / 2>(r[i], r[i + kLanes / 2], Lanes{});
      }
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) r[i] = t[i];
    }
  }

  // e^x for x <= 1: 2^n times a polynomial (f32: minimax, relative error 2e-7; f64: Taylor's, 4e-16). Below the least
  // normal number 0; NaN stays.
  [[gnu::always_inline]] static inline Vector exp(Vector x) {
    constexpr bool single = sizeof(T) == 4;
    constexpr T lowest = single ? T(-87.3) : T(-708), magic = single ? T(12582912.0) : T(6755399441055744.0);
    Vector c = x < lowest ? Vector{} + lowest : x;
    Vector t = c * T(1.4426950408889634) + magic;  // adding 1.5 * 2^mantissa rounds to the nearest integer n
    Vector n = t - magic;
    Vector r;  // c - n ln 2; in one step where multiply-add rounds once
    if constexpr (single && Bytes > 16) {
      r = c - n * T(0.6931471805599453);
    } else {
      r = c - n * (single ? T(0.693359375) : T(6.93147180369123816490e-01));
      r = r - n * (single ? T(-2.12194440e-4) : T(1.90821492927058770002e-10));
    }
    Vector p;
    if constexpr (single) {
      p = Vector{} + T(8.3125096435e-03);
      for (T a : {T(4.1890124785e-02), T(1.6667114637e-01), T(4.9999231717e-01)}) p = p * r + a;
    } else {
      p = Vector{} + T(1.0 / 6227020800);
      for (T a : {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                  1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5})
        p = p * r + a;
    }
    p = p * r * r + r + T(1);
    Vector y = (Vector)((Bits)p + ((Bits)t << (single ? 23 : 52)));  // n into the exponent
    y = c * T(0) + y;                                                // NaN
    return x < lowest ? Vector{} : y;
  }
};

// c [kGroup, kWidth] (+)= a b with b a panel [k][kWidth] and a's element (row, i) at a[row * row_stride + i *
// k_stride].
template <class S, bool Add, int64_t row_stride, int64_t k_stride, class T>
[[gnu::always_inline]] inline void multiply(int64_t k, const T* a, const T* b, T* c, int64_t ldc) {
  using V = typename S::Vector;
  constexpr int M = S::kGroup, L = S::kLanes;
  V sum[M][2];
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
    for (int j = 0; j < 2; ++j) sum[r][j] = Add ? S::load(c + r * ldc + j * L) : V{};
  for (int64_t i = 0; i < k; ++i) {
    V b0 = S::load(b + i * 2 * L), b1 = S::load(b + i * 2 * L + L);
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      T x = a[r * row_stride + i * k_stride];
      sum[r][0] += x * b0;
      sum[r][1] += x * b1;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
    for (int j = 0; j < 2; ++j) S::store(c + r * ldc + j * L, sum[r][j]);
}

// Panels of the columns of x [rows, cols] times scale: to[panel][row][width] with `depth` rows a panel.
template <class S, class T>
[[gnu::always_inline]] inline void pack_columns(const T* x, int64_t ld, int64_t rows, int64_t cols, T scale, T* to,
                                                int64_t depth) {
  constexpr int64_t W = S::kWidth, L = S::kLanes;
  for (int64_t c = 0; c < cols; c += W, to += depth * W)
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = x + r * ld + c;
      if (c + W <= cols) {
        S::store(to + r * W, S::load(from) * scale);
        S::store(to + r * W + L, S::load(from + L) * scale);
      } else {
        for (int64_t j = 0; j < W; ++j) to[r * W + j] = c + j < cols ? from[j] * scale : T(0);
      }
    }
}

// Panels of the rows of x [rows, cols]: to[panel][col][width].
template <class S, class T>
[[gnu::always_inline]] inline void pack_rows(const T* x, int64_t ld, int64_t rows, int64_t cols, T* to) {
  constexpr int64_t W = S::kWidth, L = S::kLanes;
  for (int64_t r = 0; r < rows; r += L) {
    T* panel = to + r / W * W * cols + r % W;
    int64_t c = 0;
    for (; r + L <= rows && c + L <= cols; c += L) {
      typename S::Vector v[L];
#pragma GCC unroll 16
      for (int64_t i = 0; i < L; ++i) v[i] = S::load(x + (r + i) * ld + c);
      S::transpose(v);
#pragma GCC unroll 16
      for (int64_t i = 0; i < L; ++i) S::store(panel + (c + i) * W, v[i]);
    }
    for (; c < cols; ++c)
      for (int64_t i = 0; i < L; ++i) panel[c * W + i] = r + i < rows ? x[(r + i) * ld + c] : T(0);
  }
  for (int64_t r = round_up(rows, L); r < round_up(rows, W); r += L)  // the panel's second half
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t i = 0; i < L; ++i) to[r / W * W * cols + r % W + c * W + i] = T(0);
}

// Tiles of x [rows, cols] times scale: to[tile][kRows][kStride], kKeys columns a tile; missing rows are zeros.
template <class S, class T>
[[gnu::always_inline]] inline void copy_tiles(const T* x, int64_t ld, int64_t rows, int64_t cols, T scale, T* to) {
  for (int64_t c = 0; c < cols; c += kKeys<T>, to += kRows * kStride<T>)
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t j = 0, m = std::min(kKeys<T>, cols - c); j < m; ++j)
        to[r * kStride<T> + j] = r < rows ? x[r * ld + c + j] * scale : T(0);
}

}  // namespace basis::ops::cpu_attention
