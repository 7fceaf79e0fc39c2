// Products of f32 matrices on the tensor cores: mma.sync m16n8k8 on tf32 operands, f32 sums. Terms = 1 rounds the
// operands to 11 significant bits; Terms = 3 adds the products with their remainders, which leaves f32's own rounding.
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
__device__ __forceinline__ uint32_t negative(uint32_t x) { return x ^ 0x80000000u; }

__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// N values as their tf32 part and, where it is wanted, the remainder's.
template <int N>
struct Split {
  uint32_t high[N], low[N];
  __device__ __forceinline__ Split(const float (&x)[N], bool exact) {
#pragma unroll
    for (int i = 0; i < N; ++i) high[i] = round(x[i]);
    if (!exact) return;
#pragma unroll
    for (int i = 0; i < N; ++i) low[i] = round(x[i] - __uint_as_float(high[i]));
  }
  __device__ __forceinline__ Split operator-() const {
    Split s = *this;
#pragma unroll
    for (int i = 0; i < N; ++i) s.high[i] = negative(high[i]), s.low[i] = negative(low[i]);
    return s;
  }
};

__device__ __forceinline__ void mma(float (&c)[4], const Split<4>& a, const Split<2>& b, bool exact) {
  if (exact) mma(c, a.low, b.high), mma(c, a.high, b.low);
  mma(c, a.high, b.high);
}

}  // namespace basis::core::tf32
