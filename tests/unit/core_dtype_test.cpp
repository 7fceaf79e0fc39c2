// bf16 and f16: every code, and every rounding boundary.
#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/tensor.h"

namespace basis::core {
namespace {

struct Format {
  int exponent_bits, fraction_bits;
};
constexpr Format kBf16{8, 7}, kF16{5, 10};

// The value of a code by the definition of IEEE 754, in f64 (exact for both formats).
double decode(uint32_t code, Format f) {
  int bias = (1 << (f.exponent_bits - 1)) - 1;
  uint32_t fraction = code & ((1u << f.fraction_bits) - 1),
           exponent = code >> f.fraction_bits & ((1u << f.exponent_bits) - 1);
  double sign = code & 0x8000 ? -1 : 1;
  if (exponent == (1u << f.exponent_bits) - 1) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - f.fraction_bits);
  return sign * std::ldexp(fraction + (1u << f.fraction_bits), int(exponent) - bias - f.fraction_bits);
}

template <class T>
T from_code(uint32_t code) {
  T x;
  x.bits = uint16_t(code);
  return x;
}

template <class T>
void every_code(Format f) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    float x = float(from_code<T>(code));
    double expected = decode(code, f);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(x)) << code;
      ASSERT_TRUE(std::isnan(float(T(x)))) << code;
      continue;
    }
    ASSERT_EQ(double(x), expected) << code;
    ASSERT_EQ(std::signbit(x), (code & 0x8000) != 0) << code;
    ASSERT_EQ(T(x).bits, code);  // there and back
  }
}
TEST(DType, EveryBf16Code) { every_code<bf16>(kBf16); }
TEST(DType, EveryF16Code) { every_code<f16>(kF16); }

// Between each pair of neighbours: just below the middle goes down, just above up, the middle to the even one.
template <class T>
void every_boundary(Format f) {
  uint32_t infinity = ((1u << f.exponent_bits) - 1) << f.fraction_bits;
  for (uint32_t sign : {0u, 0x8000u})
    for (uint32_t code = 0; code < infinity; ++code) {
      // Above the largest finite value lies the one that would come next: from half way on it rounds to infinity.
      double low = decode(code, f),
             high = code + 1 == infinity ? low + (low - decode(code - 1, f)) : decode(code + 1, f);
      float middle = float(low + (high - low) / 2);
      ASSERT_EQ(double(middle), low + (high - low) / 2) << code;
      float s = sign ? -1.f : 1.f;
      ASSERT_EQ(T(s * middle).bits, sign | (code + (code & 1))) << code;
      ASSERT_EQ(T(s * std::nextafter(middle, 0.f)).bits, sign | code) << code;
      ASSERT_EQ(T(s * std::nextafter(middle, INFINITY)).bits, sign | (code + 1)) << code;
    }
}
TEST(DType, Bf16RoundsToNearestEven) { every_boundary<bf16>(kBf16); }
TEST(DType, F16RoundsToNearestEven) { every_boundary<f16>(kF16); }

TEST(DType, ExtremesOfF32) {
  float largest = 3.4028235e38f, smallest = 1e-45f;
  EXPECT_TRUE(std::isinf(float(bf16(largest))));
  EXPECT_TRUE(std::isinf(float(f16(largest))));
  EXPECT_EQ(f16(smallest).bits, 0);
  EXPECT_EQ(f16(-smallest).bits, 0x8000);
  EXPECT_EQ(bf16(-smallest).bits, 0x8000);
  for (uint32_t payload : {1u, 0x1fffu, 0x400000u, 0x7fffffu}) {
    float nan = std::bit_cast<float>(0x7f800000u | payload);
    EXPECT_TRUE(std::isnan(float(bf16(nan)))) << payload;
    EXPECT_TRUE(std::isnan(float(f16(nan)))) << payload;
  }
}

TEST(DType, TensorsConvertAsTheirElementsDo) {
  std::vector<double> values{0, -0.0, 1.0 / 3, 65519.9, 65520, -1e9, 6e-8, 2.9e-8};
  Tensor x = Tensor::from(values, {8});
  auto half = x.to(DType::f16).to_vector<float>(), brain = x.to(DType::bf16).to_vector<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(half[i], float(f16(float(values[i])))) << i;
    EXPECT_EQ(brain[i], float(bf16(float(values[i])))) << i;
  }
  EXPECT_EQ(half[3], 65504);
  EXPECT_TRUE(std::isinf(half[4]));
}

TEST(DType, NamesAndSizes) {
  for (int t = 0; t < kDTypes; ++t) {
    DType type = DType(t);
    EXPECT_EQ(parse_dtype(name_of(type)), type);
    EXPECT_EQ(dispatch(type, []<class T>(std::type_identity<T>) { return int64_t(sizeof(T)); }), size_of(type));
    EXPECT_EQ(dispatch(type, []<class T>(std::type_identity<T>) { return dtype_of<T>(); }), type);
  }
  EXPECT_THROW(parse_dtype("f128"), Error);
}

}  // namespace
}  // namespace basis::core
