#include "core/gemm/gemm.h"
#include "core/parallel.h"
#include "ops/common/column_sum.h"
#include "ops/common/functors.h"
#include "ops/gelu_mlp/gelu_mlp.h"

namespace basis::ops {
namespace {

constexpr int64_t kGrain = 4096;  // elements worth a thread

template <class T>
void up_cpu(const GeluMlpOptions&, const Tensor& x, const Tensor& up, const Tensor& bias, const Tensor& pre,
            const Tensor& hidden) {
  core::matmul(x, false, up, true, pre, 0, bias);
  const T* p = pre.data<T>();
  T* h = hidden.data<T>();
  core::parallel_for(pre.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) h[i] = GeluTanh::value(p[i]);
  });
}

template <class T>
void down_backward_cpu(const GeluMlpOptions&, const Tensor& dy, const Tensor& down, const Tensor& pre, const Tensor&,
                       const Tensor& dpre, const Tensor& dbias) {
  core::matmul(dy, false, down, false, dpre);
  const T* p = pre.data<T>();
  T* d = dpre.data<T>();
  core::parallel_for(pre.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) d[i] *= GeluTanh::slope(p[i]);
  });
  if (dbias) column_sum(core::DeviceType::cpu, dpre.dtype(), dpre, dbias);
}

REGISTER_KERNEL(gelu_mlp_up, cpu, f32, up_cpu<float>)
REGISTER_KERNEL(gelu_mlp_up, cpu, f64, up_cpu<double>)
REGISTER_KERNEL(gelu_mlp_down_backward, cpu, f32, down_backward_cpu<float>)
REGISTER_KERNEL(gelu_mlp_down_backward, cpu, f64, down_backward_cpu<double>)

}  // namespace
}  // namespace basis::ops
