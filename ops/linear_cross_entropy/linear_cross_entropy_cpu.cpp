#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "ops/common/column_partials.h"
#include "ops/common/math.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace basis::ops {
namespace {

void check_targets(const int32_t* t, int64_t n, int64_t v, int32_t ignore) {
  for (int64_t i = 0; i < n; ++i)
    require(t[i] == ignore || (t[i] >= 0 && t[i] < v), "linear_cross_entropy",
            "targets in [0, " + std::to_string(v) + ") or " + std::to_string(ignore), std::to_string(t[i]));
}

// softmax(z) - [v = target], from the row's log-sum-exp.
template <class T>
void gradient_row(T* z, int64_t v, int32_t target, bool ignored, T log_sum) {
  if (ignored) return std::fill(z, z + v, T(0)), void();
  for (int64_t j = 0; j < v; ++j) z[j] = fast_exp(z[j] - log_sum);
  z[target] -= 1;
}

template <class T>
void chunk(const Tensor& logits, const Tensor& targets, int32_t ignore, bool gradient, const Tensor& loss,
           const Tensor& hits) {
  int64_t n = logits.size(0), v = logits.size(1);
  const int32_t* target = targets.data<int32_t>();
  check_targets(target, n, v, ignore);
  core::parallel_for(n, std::max<int64_t>(1, 8192 / v), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* z = logits.data<T>() + i * logits.stride(0);
      T top = z[0];
      for (int64_t j = 1; j < v; ++j) top = z[j] > top ? z[j] : top;
      T log_sum = top + std::log(lane_sum<T>(v, [&](int64_t j) { return fast_exp(z[j] - top); }));
      bool ignored = target[i] == ignore;
      loss.data<T>()[i] = ignored ? T(0) : log_sum - z[target[i]];
      if (hits) hits.data<T>()[i] = T(!ignored && std::find(z, z + v, top) - z == target[i]);
      if (!gradient) continue;
      gradient_row(z, v, target[i], ignored, log_sum);
      std::fill(z + v, z + std::max(v, logits.stride(0)), T(0));
    }
  });
}

template <class T>
void scaled(const Tensor& x, double factor, const Tensor& by, const Tensor& y) {
  const T* in = x.data<T>();
  T* out = y.data<T>();
  T scale = T(factor) * by.data<T>()[0];
  core::parallel_for(x.numel(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = scale * in[i];
  });
}

REGISTER_KERNEL(cross_entropy_chunk, cpu, f32, chunk<float>)
REGISTER_KERNEL(cross_entropy_chunk, cpu, f64, chunk<double>)
REGISTER_KERNEL(scaled_by, cpu, f32, scaled<float>)
REGISTER_KERNEL(scaled_by, cpu, f64, scaled<double>)

}  // namespace
}  // namespace basis::ops
