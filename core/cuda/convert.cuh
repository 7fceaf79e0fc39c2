// Device arithmetic on the element types: statistics type, loads to it and rounding back. core's 16-bit structs have
// the layout of CUDA's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <type_traits>

#include "core/dtype.h"

namespace basis::core {

// f64 for f64, otherwise f32: what sums and statistics are kept in.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class To, class From>
__device__ __forceinline__ To device_convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<From, bf16>)
    return device_convert<To>(__uint_as_float(uint32_t{x.bits} << 16));
  else if constexpr (std::is_same_v<From, f16>)
    return device_convert<To>(__half2float(__ushort_as_half(x.bits)));
  else if constexpr (std::is_same_v<To, bf16>) {
    bf16 y;
    y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(float(x)));
    return y;
  } else if constexpr (std::is_same_v<To, f16>) {
    f16 y;
    y.bits = __half_as_ushort(__float2half_rn(float(x)));
    return y;
  } else
    return static_cast<To>(x);
}

template <class T>
__device__ __forceinline__ Accumulator<T> widen(T x) {
  return device_convert<Accumulator<T>>(x);
}

}  // namespace basis::core
