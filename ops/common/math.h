// Scalar and vector math shared by the CPU kernels.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace basis::ops {

// exp, in a form the compiler vectorises for float: 2^n times a degree-6 polynomial, relative error below 2e-7 (2 ulp).
// Results below FLT_MIN are 0, above FLT_MAX infinity; exp(NaN) is NaN. Double goes to the library.
inline double fast_exp(double x) { return std::exp(x); }
inline float fast_exp(float x) {
  float clamped = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
  float n = std::nearbyint(clamped * 1.44269504f);
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
  if (x < -87.3f) y = 0.0f;
  if (x > 88.72283f) y = INFINITY;
  return x == x ? y : x;
}

}  // namespace basis::ops
