// Values with the index they belong to as one unsigned number, so that a maximum or minimum, in any order, is the same
// and the smaller index wins a tie.
#pragma once

#include <cstdint>

namespace basis::core::factor {

using Key = unsigned long long;

__device__ inline Key ordered(float x) {  // monotone in x
  uint32_t bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline Key largest_key(float x, uint32_t index) { return ordered(x) << 32 | ~index; }
__device__ inline uint32_t index_of_largest(Key k) { return ~uint32_t(k); }
__device__ inline Key smallest_key(float x, uint32_t index) { return ordered(x) << 32 | index; }
__device__ inline float value_of(Key k) {
  auto bits = uint32_t(k >> 32);
  return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

struct Largest {
  template <class T>
  static __device__ T identity() {
    return T(0);
  }
  template <class T>
  static __device__ T apply(T a, T b) {
    return a > b ? a : b;
  }
};
struct Smallest {
  template <class T>
  static __device__ T identity() {
    return ~T(0);
  }
  template <class T>
  static __device__ T apply(T a, T b) {
    return a < b ? a : b;
  }
};

}  // namespace basis::core::factor
