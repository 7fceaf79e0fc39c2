// Scalar and vector math shared by the CPU kernels.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/dtype.h"

namespace basis::ops {

// exp, in a form the compiler vectorises for float: 2^n times a degree-6 polynomial, relative error below 2e-7 (2 ulp).
// Results below FLT_MIN are 0, above FLT_MAX infinity; exp(NaN) is NaN. Double goes to the library.
#if defined(__CUDA_ARCH__)
__device__ inline double fast_exp(double x) { return exp(x); }
__device__ inline float fast_exp(float x) { return expf(x); }
__device__ inline double fast_tanh(double x) { return tanh(x); }
__device__ inline float fast_tanh(float x) { return tanhf(x); }
#else
inline double fast_exp(double x) { return std::exp(x); }
inline float fast_exp(float x) {
  float clamped = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  float n = (clamped * 1.44269504f + round) - round;
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float y = p * r * r + r + 1.0f;
  // 2^n in two factors, so that n = 128 does not overflow the exponent field.
  int32_t half = int32_t(n) >> 1, rest = int32_t(n) - half;
  y = y * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((rest + 127) << 23);
  y = x < -87.3f ? 0.0f : y;
  y = x > 88.72283f ? std::numeric_limits<float>::infinity() : y;
  return x == x ? y : x;
}

// tanh: an odd polynomial near 0, (1 - e) / (1 + e) with e = exp(-2|x|) elsewhere; relative error below 4e-7.
inline double fast_tanh(double x) { return std::tanh(x); }
inline float fast_tanh(float x) {
  float a = x < 0 ? -x : x, x2 = x * x;
  float e = fast_exp(-2 * a);
  float large = (1 - e) / (1 + e);
  float p = -5.70498872745e-3f;
  p = p * x2 + 2.06390887954e-2f;
  p = p * x2 - 5.37397155531e-2f;
  p = p * x2 + 1.33314422036e-1f;
  p = p * x2 - 3.33332819422e-1f;
  float small = x + x * x2 * p;
  large = x < 0 ? -large : large;
  return a < 0.625f ? small : large;
}
#endif

}  // namespace basis::ops
