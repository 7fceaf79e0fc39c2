#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "ops/attention_features/attention_features.h"
#include "ops/common/column_partials.h"
#include "ops/common/math.h"

namespace basis::ops {
namespace {

constexpr double kSqrt2 = 1.4142135623730951;

template <class T>
void forward_row(const FeatureOptions& o, const T* x, int64_t D, int64_t r, T* y) {
  if (o.kind == Features::elu) {
    for (int64_t i = 0; i < D; ++i) y[i] = x[i] > 0 ? x[i] + 1 : fast_exp(x[i]);
  } else if (o.kind == Features::taylor) {
    *y++ = 1;
    for (int64_t i = 0; i < D; ++i) *y++ = x[i];
    for (int64_t i = 0; i < D && o.degree == 2; ++i) {
      *y++ = x[i] * x[i] * T(1 / kSqrt2);
      for (int64_t j = i + 1; j < D; ++j) *y++ = x[i] * x[j];
    }
  } else {
    const float* w = o.directions.data<float>();
    T half = -lane_sum<T>(D, [&](int64_t d) { return x[d] * x[d]; }) / 2;
    for (int64_t f = 0; f < r; ++f) y[f] = half;
    for (int64_t d = 0; d < D; ++d)
      for (int64_t f = 0; f < r; ++f) y[f] += x[d] * T(w[d * r + f]);
    T scale = T(1 / std::sqrt(double(r)));
    for (int64_t f = 0; f < r; ++f) y[f] = scale * fast_exp(y[f]);
  }
}

template <class T>
void backward_row(const FeatureOptions& o, const T* x, const T* y, const T* dy, int64_t D, int64_t r, T* dx) {
  if (o.kind == Features::elu) {
    for (int64_t i = 0; i < D; ++i) dx[i] = x[i] > 0 ? dy[i] : dy[i] * y[i];
  } else if (o.kind == Features::taylor) {
    for (int64_t i = 0; i < D; ++i) dx[i] = dy[1 + i];
    const T* pair = dy + 1 + D;
    for (int64_t i = 0; i < D && o.degree == 2; ++i) {
      dx[i] += T(kSqrt2) * *pair++ * x[i];
      for (int64_t j = i + 1; j < D; ++j, ++pair) dx[i] += *pair * x[j], dx[j] += *pair * x[i];
    }
  } else {
    const float* w = o.directions.data<float>();
    T all = lane_sum<T>(r, [&](int64_t f) { return dy[f] * y[f]; });
    for (int64_t d = 0; d < D; ++d)
      dx[d] = lane_sum<T>(r, [&](int64_t f) { return dy[f] * y[f] * T(w[d * r + f]); }) - all * x[d];
  }
}

template <class T>
void forward(const Tensor& x, const FeatureOptions& o, const Tensor& y) {
  int64_t D = x.size(1), r = y.size(1);
  core::parallel_for(x.size(0), std::max<int64_t>(1, 4096 / r), [&](int64_t begin, int64_t end) {
    std::vector<T> row(static_cast<size_t>(D));
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t d = 0; d < D; ++d) row[size_t(d)] = T(o.scale) * x.data<T>()[n * D + d];
      forward_row(o, row.data(), D, r, y.data<T>() + n * r);
    }
  });
}

template <class T>
void backward(const Tensor& x, const Tensor& y, const Tensor& dy, const FeatureOptions& o, const Tensor& dx) {
  int64_t D = x.size(1), r = dy.size(1);
  core::parallel_for(x.size(0), std::max<int64_t>(1, 4096 / r), [&](int64_t begin, int64_t end) {
    std::vector<T> row(static_cast<size_t>(D));
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t d = 0; d < D; ++d) row[size_t(d)] = T(o.scale) * x.data<T>()[n * D + d];
      T* to = dx.data<T>() + n * D;
      backward_row(o, row.data(), y ? y.data<T>() + n * r : nullptr, dy.data<T>() + n * r, D, r, to);
      for (int64_t d = 0; d < D; ++d) to[d] *= T(o.scale);
    }
  });
}

REGISTER_KERNEL(attention_features_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(attention_features_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(attention_features_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(attention_features_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
