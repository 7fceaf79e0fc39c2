// The FFT service against the sum that defines it.
#include "core/fft/fft.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/rng.h"

namespace basis::core {
namespace {

std::vector<double> random_values(int64_t n) {
  HostRandom random(7, 1);
  std::vector<double> v(static_cast<size_t>(n));
  for (double& x : v) x = random.normal();
  return v;
}

// [B,N,C] -> [B,N/2+1,C,2]
std::vector<double> naive_rfft(const std::vector<double>& x, int64_t b, int64_t n, int64_t c) {
  std::vector<double> y;
  for (int64_t i = 0; i < b; ++i)
    for (int64_t f = 0; f <= n / 2; ++f)
      for (int64_t j = 0; j < c; ++j) {
        double re = 0, im = 0;
        for (int64_t t = 0; t < n; ++t) {
          double angle = -2 * std::numbers::pi * double(f * t % n) / double(n), v = x[size_t((i * n + t) * c + j)];
          re += v * std::cos(angle), im += v * std::sin(angle);
        }
        y.push_back(re), y.push_back(im);
      }
  return y;
}

double relative_error(const std::vector<double>& got, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) error += std::pow(got[i] - expected[i], 2), norm += std::pow(expected[i], 2);
  return std::sqrt(error / norm);
}

void check(Device device, DType dtype, double tolerance) {
  for (int64_t n : {1, 2, 4, 8, 32, 128, 512})
    for (int64_t c : {1, 3, 8, 9, 33}) {
      int64_t b = 2;
      auto x = Tensor::from(random_values(b * n * c), {b, n, c}).to(dtype).to(device);
      Tensor spectrum = Tensor::empty({b, n / 2 + 1, c, 2}, dtype, device), back = x.empty_like();
      rfft(x, spectrum);
      EXPECT_LT(relative_error(spectrum.to_vector<double>(), naive_rfft(x.to_vector<double>(), b, n, c)), tolerance)
          << n << " x " << c;
      irfft(spectrum, back);
      EXPECT_LT(relative_error(back.to_vector<double>(), x.to_vector<double>()), tolerance) << n << " x " << c;
    }
}

TEST(Fft, CpuF64) { check(cpu, DType::f64, 1e-14); }
TEST(Fft, CpuF32) { check(cpu, DType::f32, 5e-7); }
TEST(Fft, CudaF32) {
  if (device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  check(cuda(), DType::f32, 5e-7);
}

TEST(Fft, RefusesOtherSizesAndShapes) {
  Tensor x = Tensor::zeros({2, 6, 3}, DType::f32);
  EXPECT_THROW(rfft(x, Tensor::empty({2, 4, 3, 2}, DType::f32)), Error);
  Tensor y = Tensor::zeros({2, 8, 3}, DType::f32);
  EXPECT_THROW(rfft(y, Tensor::empty({2, 4, 3, 2}, DType::f32)), Error);
  EXPECT_THROW(rfft(y, Tensor::empty({2, 5, 3, 2}, DType::f64)), Error);
  EXPECT_THROW(LaneFft<float>(12), Error);
}

}  // namespace
}  // namespace basis::core
