#include <algorithm>

#include "core/parallel.h"
#include "ops/common/math.h"
#include "ops/softmax/softmax.h"

namespace basis::ops {
namespace {

template <class T>
void forward(const Tensor& x, const Tensor& y) {
  int64_t c = x.size(-1), rows = x.numel() / c;
  core::parallel_for(rows, std::max<int64_t>(1, 8192 / c), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* in = x.data<T>() + r * c;
      T* out = y.data<T>() + r * c;
      T top = in[0];
      for (int64_t i = 1; i < c; ++i) top = std::max(top, in[i]);
      T sum = 0;
      for (int64_t i = 0; i < c; ++i) sum += out[i] = fast_exp(in[i] - top);
      T scale = 1 / sum;
      for (int64_t i = 0; i < c; ++i) out[i] *= scale;
    }
  });
}

template <class T>
void backward(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  int64_t c = y.size(-1), rows = y.numel() / c;
  core::parallel_for(rows, std::max<int64_t>(1, 8192 / c), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *p = y.data<T>() + r * c, *g = dy.data<T>() + r * c;
      T* out = dx.data<T>() + r * c;
      T dot = 0;
      for (int64_t i = 0; i < c; ++i) dot += p[i] * g[i];
      for (int64_t i = 0; i < c; ++i) out[i] = p[i] * (g[i] - dot);
    }
  });
}

REGISTER_KERNEL(softmax_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(softmax_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(softmax_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(softmax_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
