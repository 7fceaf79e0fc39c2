#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "ops/common/column_partials.h"
#include "ops/common/math.h"
#include "ops/cross_entropy/cross_entropy.h"

namespace basis::ops {
namespace {

void check_targets(const int32_t* t, int64_t n, int64_t v, int32_t ignore) {
  for (int64_t i = 0; i < n; ++i)
    require(t[i] == ignore || (t[i] >= 0 && t[i] < v), "cross_entropy",
            "targets in [0, " + std::to_string(v) + ") or " + std::to_string(ignore),
            std::to_string(t[i]) + " at row " + std::to_string(i));
}

template <class T>
void forward(const Tensor& logits, const Tensor& targets, int32_t ignore, const Tensor& rows, const Tensor& lse) {
  int64_t n = logits.size(0), v = logits.size(1);
  const int32_t* target = targets.data<int32_t>();
  check_targets(target, n, v, ignore);
  core::parallel_for(n, std::max<int64_t>(1, 8192 / v), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* z = logits.data<T>() + i * v;
      T top = z[0];
      for (int64_t j = 1; j < v; ++j) top = z[j] > top ? z[j] : top;
      T log_sum = top + std::log(lane_sum<T>(v, [&](int64_t j) { return fast_exp(z[j] - top); }));
      lse.data<T>()[i] = log_sum;
      rows.data<T>()[i] = target[i] == ignore ? T(0) : log_sum - z[target[i]];
    }
  });
}

template <class T>
void sum_rows(const Tensor& rows, double scale, const Tensor& out) {
  const T* r = rows.data<T>();
  double total = lane_sum<double>(rows.numel(), [&](int64_t i) { return double(r[i]); });
  out.data<T>()[0] = T(scale * total);
}

template <class T>
void backward(const Tensor& logits, const Tensor& targets, const Tensor& lse, const Tensor& dloss,
              const CrossEntropyOptions& o, const Tensor& dlogits) {
  int64_t n = logits.size(0), v = logits.size(1);
  const int32_t* target = targets.data<int32_t>();
  T scale = T(o.scale) * dloss.data<T>()[0];
  core::parallel_for(n, std::max<int64_t>(1, 8192 / v), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* z = logits.data<T>() + i * v;
      T* dz = dlogits.data<T>() + i * v;
      if (target[i] == o.ignore_index) {
        std::fill(dz, dz + v, T(0));
        continue;
      }
      T log_sum = lse.data<T>()[i];
      for (int64_t j = 0; j < v; ++j) dz[j] = scale * fast_exp(z[j] - log_sum);
      dz[target[i]] -= scale;
    }
  });
}

REGISTER_KERNEL(cross_entropy_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(cross_entropy_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(sum_scaled, cpu, f32, sum_rows<float>)
REGISTER_KERNEL(sum_scaled, cpu, f64, sum_rows<double>)
REGISTER_KERNEL(cross_entropy_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(cross_entropy_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
