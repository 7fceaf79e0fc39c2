#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "ops/common/column_partials.h"
#include "ops/rms_norm/rms_norm.h"

namespace basis::ops {
namespace {

template <class T>
void forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const NormAttrs& a, const Tensor& y,
             const Tensor& sum, const Tensor& rstd) {
  int64_t n = x.size(0), c = x.size(1);
  const T *in = x.data<T>(), *r = residual ? residual.data<T>() : nullptr, *w = weight.data<T>();
  T *out = y.data<T>(), *s = sum ? sum.data<T>() : nullptr;
  const int32_t* order = a.order ? a.order.data<int32_t>() : nullptr;
  core::parallel_for(n, std::max<int64_t>(1, 8192 / c), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = in + i * c;
      if (r) {
        for (int64_t j = 0; j < c; ++j) s[i * c + j] = row[j] + r[i * c + j];
        row = s + i * c;
      }
      T inv = 1 / std::sqrt(lane_sum<T>(c, [&](int64_t j) { return row[j] * row[j]; }) / T(c) + T(a.eps));
      rstd.data<T>()[i] = inv;
      if (order)
        for (int64_t j = 0; j < c; ++j) out[i * c + j] = row[order[j]] * inv * w[order[j]];
      else
        for (int64_t j = 0; j < c; ++j) out[i * c + j] = row[j] * inv * w[j];
    }
  });
}

template <class T>
void backward(const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dy, const Tensor& dsum,
              const Tensor& order, const Tensor& dx, const Tensor& dweight) {
  int64_t n = x.size(0), c = x.size(1);
  const T *in = x.data<T>(), *w = weight.data<T>(), *g = dy.data<T>(), *ds = dsum ? dsum.data<T>() : nullptr;
  T* out = dx.data<T>();
  const int32_t* channels = order ? order.data<int32_t>() : nullptr;
  ColumnPartials<T> dw(dweight, n, c);
  dw.for_row_blocks([&](int64_t block, int64_t begin, int64_t end) {
    std::vector<T> space(size_t(channels ? c : 0));
    T* pw = dw.block(block);
    for (int64_t i = begin; i < end; ++i) {
      const T *row = in + i * c, *gi = in_channels_of_x(g + i * c, channels, c, space.data());
      T inv = rstd.data<T>()[i];
      T mean_gx = lane_sum<T>(c, [&](int64_t j) { return gi[j] * w[j] * row[j] * inv; }) / T(c);
      for (int64_t j = 0; j < c; ++j)
        out[i * c + j] = inv * (gi[j] * w[j] - row[j] * inv * mean_gx) + (ds ? ds[i * c + j] : T(0));
      if (pw)
        for (int64_t j = 0; j < c; ++j) pw[j] += gi[j] * row[j] * inv;
    }
  });
  dw.finish();
}

REGISTER_KERNEL(rms_norm_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(rms_norm_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(rms_norm_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(rms_norm_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
