// 16-byte accesses.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/cuda/convert.cuh"

namespace basis::core {

// W elements moved at once; W = 1 where the addresses do not allow more.
template <class T, int W>
struct alignas(sizeof(T) * W) Vec {
  T v[W];
};
template <class T>
inline constexpr int kVecWidth = 16 / int(sizeof(T));

template <int W, class T>
__device__ __forceinline__ Vec<T, W> load_vec(const T* p) {
  return *reinterpret_cast<const Vec<T, W>*>(p);
}
template <int W, class T>
__device__ __forceinline__ void store_vec(T* p, const Vec<T, W>& x) {
  *reinterpret_cast<Vec<T, W>*>(p) = x;
}

// Whether rows of `row` elements starting at these addresses may be read 16 bytes at a time. Null pointers pass.
template <class T>
bool aligned16(int64_t row, std::initializer_list<const T*> pointers) {
  if (row % kVecWidth<T>) return false;
  for (const T* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  return true;
}

}  // namespace basis::core
