// Element types of tensors, and the two 16-bit float formats as storage types with exact conversions.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "core/error.h"

#if defined(__CUDACC__)
#define BASIS_HOST_DEVICE __host__ __device__
#else
#define BASIS_HOST_DEVICE
#endif

namespace basis::core {

enum class DType : uint8_t { f64, f32, bf16, f16, i64, i32, u16, u8 };
inline constexpr int kDTypes = 8;

constexpr int64_t size_of(DType t) {
  constexpr int64_t bytes[kDTypes] = {8, 4, 2, 2, 8, 4, 2, 1};
  return bytes[static_cast<int>(t)];
}
constexpr std::string_view name_of(DType t) {
  constexpr std::string_view names[kDTypes] = {"f64", "f32", "bf16", "f16", "i64", "i32", "u16", "u8"};
  return names[static_cast<int>(t)];
}
constexpr bool is_float(DType t) { return t <= DType::f16; }

// Unit round-off: half the distance from 1 to the next number.
constexpr double epsilon(DType t) {
  return t == DType::f64 ? 1.11e-16 : t == DType::f32 ? 5.97e-8 : t == DType::bf16 ? 3.91e-3 : 4.89e-4;
}

// bfloat16: the upper half of a float32. Rounds to nearest even; NaN stays NaN.
struct bf16 {
  uint16_t bits;
  bf16() = default;
  explicit bf16(float x) {
    uint32_t u = std::bit_cast<uint32_t>(x);
    bits = (u & 0x7fffffff) > 0x7f800000 ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

// IEEE 754 binary16. Rounds to nearest even, overflows to infinity, keeps subnormals.
struct f16 {
  uint16_t bits;
  f16() = default;
  explicit f16(float x) {
    uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000;
    u &= 0x7fffffff;
    if (u >= 0x47800000) {  // overflow, infinity or NaN
      bits = uint16_t(sign | (u > 0x7f800000 ? 0x7e00 : 0x7c00));
    } else if (u < 0x38800000) {  // subnormal: let the float adder round at 2^-24
      float magic = std::bit_cast<float>(uint32_t{0x3f000000});
      bits = uint16_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(u) + magic) - 0x3f000000));
    } else {
      bits = uint16_t(sign | ((u - 0x38000000 + 0xfff + ((u >> 13) & 1)) >> 13));
    }
  }
  explicit operator float() const {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400) return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000));
    float subnormal = float(rest) * 0x1p-24f;
    return sign ? -subnormal : subnormal;
  }
};

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, f16>) return DType::f16;
  if constexpr (std::is_same_v<T, int64_t>) return DType::i64;
  if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, uint16_t>) return DType::u16;
  if constexpr (std::is_same_v<T, uint8_t>) return DType::u8;
}

inline DType parse_dtype(std::string_view name) {
  for (int t = 0; t < kDTypes; ++t)
    if (name_of(DType(t)) == name) return DType(t);
  throw Error({.where = "dtype",
               .expected = "f64, f32, bf16, f16, i64, i32, u16 or u8",
               .got = std::string(name),
               .code = ExitCode::usage});
}

// Calls f(std::type_identity<T>{}) with the C++ type of `t`.
template <class F>
decltype(auto) dispatch(DType t, F&& f) {
  switch (t) {
    case DType::f64:
      return f(std::type_identity<double>{});
    case DType::f32:
      return f(std::type_identity<float>{});
    case DType::bf16:
      return f(std::type_identity<bf16>{});
    case DType::f16:
      return f(std::type_identity<f16>{});
    case DType::i64:
      return f(std::type_identity<int64_t>{});
    case DType::i32:
      return f(std::type_identity<int32_t>{});
    case DType::u16:
      return f(std::type_identity<uint16_t>{});
    default:
      return f(std::type_identity<uint8_t>{});
  }
}

// Numeric conversion between any two element types.
template <class To, class From>
To convert(From x) {
  constexpr bool half_from = std::is_same_v<From, bf16> || std::is_same_v<From, f16>;
  constexpr bool half_to = std::is_same_v<To, bf16> || std::is_same_v<To, f16>;
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (half_from)
    return convert<To>(float(x));
  else if constexpr (half_to)
    return To(float(x));
  else
    return static_cast<To>(x);
}

}  // namespace basis::core
