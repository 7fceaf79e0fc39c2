#include <algorithm>

#include "core/parallel.h"
#include "ops/bd_linear/bd_linear.h"

namespace basis::ops {
namespace {

template <class T>
void repeat_cpu(const Tensor& x, const BdOptions& o, const Tensor& y) {
  int64_t d = x.size(1), n = y.size(1), dh = o.head_dim;
  const T* slice = x.data<T>() + (o.slice_at_back ? d - dh : 0);
  T* out = y.data<T>();
  core::parallel_for(x.size(0), std::max<int64_t>(1, 16384 / n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t h = 0; h < n; h += dh) std::copy_n(slice + i * d, dh, out + i * n + h);
  });
}

template <class T>
void sum_heads_cpu(const Tensor& dy, const BdOptions& o, const Tensor& dx) {
  int64_t d = dx.size(1), n = dy.size(1), dh = o.head_dim;
  const T* in = dy.data<T>();
  T* slice = dx.data<T>() + (o.slice_at_back ? d - dh : 0);
  core::parallel_for(dy.size(0), std::max<int64_t>(1, 16384 / n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* sum = slice + i * d;
      std::copy_n(in + i * n, dh, sum);
      for (int64_t h = dh; h < n; h += dh)
        for (int64_t j = 0; j < dh; ++j) sum[j] += in[i * n + h + j];
    }
  });
}

REGISTER_KERNEL(bd_repeat, cpu, f32, repeat_cpu<float>)
REGISTER_KERNEL(bd_repeat, cpu, f64, repeat_cpu<double>)
REGISTER_KERNEL(bd_sum_heads, cpu, f32, sum_heads_cpu<float>)
REGISTER_KERNEL(bd_sum_heads, cpu, f64, sum_heads_cpu<double>)

}  // namespace
}  // namespace basis::ops
