#include "ops/common/norm_cuda.cuh"
#include "ops/rms_norm/rms_norm.h"

namespace basis::ops {
namespace {

template <class T>
void forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const NormAttrs& a, const Tensor& y,
             const Tensor& sum, const Tensor& rstd) {
  norm::forward<T, true>(x, residual, weight, {}, a, y, sum, {}, rstd);
}
template <class T>
void backward(const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dy, const Tensor& dsum,
              const Tensor& order, const Tensor& dx, const Tensor& dweight) {
  norm::backward<T, true>(x, weight, {}, rstd, dy, dsum, order, dx, dweight, {});
}

template <class T>
bool add_kernels() {
  return rms_norm_forward.set(DeviceType::cuda, core::dtype_of<T>(), forward<T>) &&
         rms_norm_backward.set(DeviceType::cuda, core::dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<core::bf16>() && add_kernels<core::f16>();

}  // namespace
}  // namespace basis::ops
