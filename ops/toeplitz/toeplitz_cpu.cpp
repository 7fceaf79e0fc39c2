#include "core/parallel.h"
#include "ops/toeplitz/toeplitz.h"

namespace basis::ops {
namespace {

template <class T>
void product(const Tensor& a, const Tensor& x, bool conjugated, const Tensor& out) {
  int64_t c = x.size(1);
  core::parallel_for(x.size(0), std::max<int64_t>(1, 8192 / c), [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) {
      T re = a.data<T>()[2 * f], im = conjugated ? -a.data<T>()[2 * f + 1] : a.data<T>()[2 * f + 1];
      const T* p = x.data<T>() + f * c * 2;
      T* y = out.data<T>() + f * c * 2;
      for (int64_t j = 0; j < c; ++j) {
        y[2 * j] = re * p[2 * j] - im * p[2 * j + 1];
        y[2 * j + 1] = re * p[2 * j + 1] + im * p[2 * j];
      }
    }
  });
}

template <class T>
void dot(const Tensor& x, const Tensor& y, const Tensor& out) {
  int64_t c = x.size(1);
  core::parallel_for(x.size(0), std::max<int64_t>(1, 8192 / c), [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) {
      const T *p = x.data<T>() + f * c * 2, *q = y.data<T>() + f * c * 2;
      T re = 0, im = 0;
      for (int64_t j = 0; j < c; ++j) {
        re += p[2 * j] * q[2 * j] + p[2 * j + 1] * q[2 * j + 1];
        im += p[2 * j] * q[2 * j + 1] - p[2 * j + 1] * q[2 * j];
      }
      out.data<T>()[2 * f] = re, out.data<T>()[2 * f + 1] = im;
    }
  });
}

REGISTER_KERNEL(spectrum_product, cpu, f32, product<float>)
REGISTER_KERNEL(spectrum_product, cpu, f64, product<double>)
REGISTER_KERNEL(spectrum_dot, cpu, f32, dot<float>)
REGISTER_KERNEL(spectrum_dot, cpu, f64, dot<double>)

}  // namespace
}  // namespace basis::ops
