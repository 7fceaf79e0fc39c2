// Two radix-2 stages at a time, depth first, so that small blocks stay in cache: decimation in frequency forwards,
// decimation in time back. With w = exp(-2 pi i j / n), quarters x0..x3 of a block and j < n/4, forwards
//
//   y0 = x0 + x2 + (x1 + x3)           y1 = (x0 + x2 - (x1 + x3)) w^2
//   y2 = (x0 - x2 - i (x1 - x3)) w     y3 = (x0 - x2 + i (x1 - x3)) w^3
#include <bit>
#include <cmath>
#include <memory>
#include <mutex>
#include <numbers>
#include <unordered_map>

#include "core/fft/fft.h"
#include "core/parallel.h"

namespace basis::core {

template <class T>
LaneFft<T>::LaneFft(int64_t n) : n_(n), twiddles_(size_t(2 * n)), order_(size_t(n), 0) {
  if (n < 1 || !std::has_single_bit(uint64_t(n)))
    throw Error({.where = "fft", .expected = "a power of two", .got = std::to_string(n)});
  for (int64_t j = 0; j < n; ++j) {
    double angle = -2 * std::numbers::pi * double(j) / double(n);
    twiddles_[size_t(2 * j)] = T(std::cos(angle)), twiddles_[size_t(2 * j + 1)] = T(std::sin(angle));
  }
  for (int64_t f = 1; f < n; ++f) order_[size_t(f)] = int32_t(order_[size_t(f / 2)] / 2 + (f % 2) * (n / 2));
}

template <class T>
const LaneFft<T>& LaneFft<T>::of(int64_t n) {
  static std::mutex mutex;
  static std::unordered_map<int64_t, std::unique_ptr<LaneFft>> plans;
  std::lock_guard lock(mutex);
  auto& plan = plans[n];
  if (!plan) plan = std::make_unique<LaneFft>(n);
  return *plan;
}

template <class T>
void LaneFft<T>::forward(T* x, int64_t n) const {
  constexpr int W = lanes;
  if (n <= 1) return;
  if (n == 2) {
    for (int l = 0; l < 2 * W; ++l) {
      T a = x[l], b = x[2 * W + l];
      x[l] = a + b, x[2 * W + l] = a - b;
    }
    return;
  }
  int64_t quarter = n / 4, stride = n_ / n;
  for (int64_t j = 0; j < quarter; ++j) {
    const T *w1 = &twiddles_[size_t(2 * j * stride)], *w2 = &twiddles_[size_t(4 * j * stride)],
            *w3 = &twiddles_[size_t(6 * j * stride)];
    T c1 = w1[0], s1 = w1[1], c2 = w2[0], s2 = w2[1], c3 = w3[0], s3 = w3[1];
    T* __restrict p0 = x + 2 * W * j, * __restrict p1 = p0 + 2 * W * quarter, * __restrict p2 = p1 + 2 * W * quarter, * __restrict p3 = p2 + 2 * W * quarter;
    for (int l = 0; l < W; ++l) {
      T ar = p0[l] + p2[l], ai = p0[W + l] + p2[W + l], br = p0[l] - p2[l], bi = p0[W + l] - p2[W + l];
      T cr = p1[l] + p3[l], ci = p1[W + l] + p3[W + l], dr = p1[l] - p3[l], di = p1[W + l] - p3[W + l];
      T er = ar - cr, ei = ai - ci, fr = br + di, fi = bi - dr, gr = br - di, gi = bi + dr;
      p0[l] = ar + cr, p0[W + l] = ai + ci;
      p1[l] = er * c2 - ei * s2, p1[W + l] = er * s2 + ei * c2;
      p2[l] = fr * c1 - fi * s1, p2[W + l] = fr * s1 + fi * c1;
      p3[l] = gr * c3 - gi * s3, p3[W + l] = gr * s3 + gi * c3;
    }
  }
  for (int64_t b = 0; b < 4; ++b) forward(x + 2 * W * quarter * b, quarter);
}

template <class T>
void LaneFft<T>::inverse(T* x, int64_t n) const {
  constexpr int W = lanes;
  if (n <= 2) return forward(x, n);
  int64_t quarter = n / 4, stride = n_ / n;
  for (int64_t b = 0; b < 4; ++b) inverse(x + 2 * W * quarter * b, quarter);
  for (int64_t j = 0; j < quarter; ++j) {
    const T *w1 = &twiddles_[size_t(2 * j * stride)], *w2 = &twiddles_[size_t(4 * j * stride)],
            *w3 = &twiddles_[size_t(6 * j * stride)];
    T c1 = w1[0], s1 = w1[1], c2 = w2[0], s2 = w2[1], c3 = w3[0], s3 = w3[1];
    T* __restrict p0 = x + 2 * W * j, * __restrict p1 = p0 + 2 * W * quarter, * __restrict p2 = p1 + 2 * W * quarter, * __restrict p3 = p2 + 2 * W * quarter;
    for (int l = 0; l < W; ++l) {
      T er = p1[l] * c2 + p1[W + l] * s2, ei = p1[W + l] * c2 - p1[l] * s2;
      T fr = p2[l] * c1 + p2[W + l] * s1, fi = p2[W + l] * c1 - p2[l] * s1;
      T gr = p3[l] * c3 + p3[W + l] * s3, gi = p3[W + l] * c3 - p3[l] * s3;
      T ar = p0[l] + er, ai = p0[W + l] + ei, cr = p0[l] - er, ci = p0[W + l] - ei;
      T br = fr + gr, bi = fi + gi, dr = gi - fi, di = fr - gr;  // d = i (f - g)
      p0[l] = ar + br, p0[W + l] = ai + bi;
      p2[l] = ar - br, p2[W + l] = ai - bi;
      p1[l] = cr + dr, p1[W + l] = ci + di;
      p3[l] = cr - dr, p3[W + l] = ci - di;
    }
  }
}

template class LaneFft<float>;
template class LaneFft<double>;

namespace {

// Two groups of channels as the real and imaginary lanes of one complex transform.
template <class T, class Body>
void for_lane_groups(const Tensor& x, Body&& body) {
  constexpr int64_t W = LaneFft<T>::lanes;
  int64_t n = x.size(-2), c = x.size(-1), groups = (c + 2 * W - 1) / (2 * W), batch = x.numel() / (n * c);
  parallel_for(batch * groups, std::max<int64_t>(1, 4096 / n), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(size_t(2 * W * n));
    for (int64_t i = begin; i < end; ++i) body(i / groups, i % groups * 2 * W, scratch.data());
  });
}

template <class T>
void rfft_cpu(const Tensor& x, const Tensor& spectrum) {
  constexpr int64_t W = LaneFft<T>::lanes;
  int64_t n = x.size(-2), c = x.size(-1);
  const auto& plan = LaneFft<T>::of(n);
  for_lane_groups<T>(x, [&](int64_t b, int64_t first, T* z) {
    const T* in = x.data<T>() + b * n * c;
    T* out = spectrum.data<T>() + b * (n / 2 + 1) * c * 2;
    int64_t width = std::min(c - first, 2 * W);
    for (int64_t t = 0; t < n; ++t)
      for (int64_t l = 0; l < 2 * W; ++l) z[t * 2 * W + l] = l < width ? in[t * c + first + l] : T(0);
    plan.forward(z);
    for (int64_t f = 0; f <= n / 2; ++f) {  // Z = A + iB: A = (Z[f] + Z*[-f]) / 2, B = (Z[f] - Z*[-f]) / 2i
      const T *p = z + plan.order()[size_t(f)] * 2 * W, *m = z + plan.order()[size_t((n - f) % n)] * 2 * W;
      for (int64_t l = 0; l < width; ++l) {
        int64_t k = l % W;
        T re = l < W ? p[k] + m[k] : p[W + k] + m[W + k], im = l < W ? p[W + k] - m[W + k] : m[k] - p[k];
        out[(f * c + first + l) * 2] = re / 2, out[(f * c + first + l) * 2 + 1] = im / 2;
      }
    }
  });
}

template <class T>
void irfft_cpu(const Tensor& spectrum, const Tensor& x) {
  constexpr int64_t W = LaneFft<T>::lanes;
  int64_t n = x.size(-2), c = x.size(-1);
  const auto& plan = LaneFft<T>::of(n);
  for_lane_groups<T>(x, [&](int64_t b, int64_t first, T* z) {
    const T* in = spectrum.data<T>() + b * (n / 2 + 1) * c * 2;
    T* out = x.data<T>() + b * n * c;
    int64_t width = std::min(c - first, 2 * W);
    for (int64_t f = 0; f < n; ++f) {  // Z[f] = A[f] + i B[f] with A[-f] = A*[f]
      T* p = z + plan.order()[size_t(f)] * 2 * W;
      int64_t g = f <= n / 2 ? f : n - f;
      T sign = g == 0 || 2 * g == n ? T(0) : f <= n / 2 ? T(1) : T(-1);
      auto value = [&](int64_t l, int part) { return l < width ? in[(g * c + first + l) * 2 + part] : T(0); };
      for (int64_t k = 0; k < W; ++k) {
        p[k] = value(k, 0) - sign * value(W + k, 1);
        p[W + k] = sign * value(k, 1) + value(W + k, 0);
      }
    }
    plan.inverse(z);
    for (int64_t t = 0; t < n; ++t)
      for (int64_t l = 0; l < width; ++l) out[t * c + first + l] = z[t * 2 * W + l] / T(n);
  });
}

REGISTER_KERNEL(rfft_kernel, cpu, f32, rfft_cpu<float>)
REGISTER_KERNEL(rfft_kernel, cpu, f64, rfft_cpu<double>)
REGISTER_KERNEL(irfft_kernel, cpu, f32, irfft_cpu<float>)
REGISTER_KERNEL(irfft_kernel, cpu, f64, irfft_cpu<double>)

}  // namespace
}  // namespace basis::core
