// Products of f32 matrices on the tensor cores: mma.sync m16n8k8 on tf32 operands, of 11 significant bits, with f32
// sums. Exact adds the products with the operands' remainders, which leaves f32's own rounding.
//
// Of lane l, with r = l / 4 and c = l % 4: a holds A[r][c], A[r + 8][c], A[r][c + 4], A[r + 8][c + 4]; b holds B[c][r],
// B[c + 4][r]; the sums are C[r][2c], C[r][2c + 1], C[r + 8][2c], C[r + 8][2c + 1].
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace basis::core::tf32 {

__device__ __forceinline__ uint32_t round(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// N values as tf32; Exact keeps the remainders too. The unit drops the low 13 bits, so that half of their range, added
// before, rounds.
template <int N, bool Exact>
struct Split {
  uint32_t high[N], low[Exact ? N : 1];
  __device__ __forceinline__ explicit Split(const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      high[i] = Exact ? round(x[i]) : __float_as_uint(x[i]) + 0x1000;
      if constexpr (Exact) low[i] = round(x[i] - __uint_as_float(high[i]));
    }
  }
  // The values whose sign bit is set in `flip` change sign.
  __device__ __forceinline__ Split signed_by(const uint32_t (&flip)[N]) const {
    Split s = *this;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      s.high[i] ^= flip[i];
      if constexpr (Exact) s.low[i] ^= flip[i];
    }
    return s;
  }
};
inline constexpr uint32_t kSign = 0x80000000u;

template <bool Exact>
__device__ __forceinline__ void mma(float (&c)[4], const Split<4, Exact>& a, const Split<2, Exact>& b) {
  if constexpr (Exact) mma(c, a.low, b.high), mma(c, a.high, b.low);
  mma(c, a.high, b.high);
}

}  // namespace basis::core::tf32
