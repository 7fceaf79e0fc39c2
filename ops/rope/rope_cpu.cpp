#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "ops/rope/rope.h"

namespace basis::ops {
namespace {

template <class T>
void rope_cpu(const Tensor& x, const RopeOptions& o, int direction, const Tensor& y) {
  int64_t B = x.size(0), time = x.size(1), H = x.size(2), D = x.size(3), R = o.rotary_dim ? o.rotary_dim : D,
          half = R / 2;
  std::vector<T> cosine(size_t(time * half)), sine(size_t(time * half));
  for (int64_t t = 0; t < time; ++t)
    for (int64_t i = 0; i < half; ++i) {
      double angle = o.position_scale * double(o.first_position + t) * std::pow(o.theta, -2.0 * double(i) / double(R));
      cosine[size_t(t * half + i)] = T(std::cos(angle));
      sine[size_t(t * half + i)] = T(direction * std::sin(angle));
    }
  const T* in = x.data<T>();
  T* out = y.data<T>();
  int64_t step = o.interleaved ? 2 : 1, partner = o.interleaved ? 1 : half;
  core::parallel_for(B * time, std::max<int64_t>(1, 8192 / (H * D)), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T *c = &cosine[size_t(n % time * half)], *s = &sine[size_t(n % time * half)];
      for (int64_t h = 0; h < H; ++h) {
        const T* a = in + (n * H + h) * D;
        T* b = out + (n * H + h) * D;
        for (int64_t i = 0; i < half; ++i) {
          T p = a[i * step], q = a[i * step + partner];
          b[i * step] = p * c[i] - q * s[i];
          b[i * step + partner] = p * s[i] + q * c[i];
        }
        for (int64_t i = R; i < D; ++i) b[i] = a[i];
      }
    }
  });
}

REGISTER_KERNEL(rope_kernel, cpu, f32, rope_cpu<float>)
REGISTER_KERNEL(rope_kernel, cpu, f64, rope_cpu<double>)

}  // namespace
}  // namespace basis::ops
