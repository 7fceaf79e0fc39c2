#include "ops/common/norm_cuda.cuh"
#include "ops/layer_norm/layer_norm.h"

namespace basis::ops {
namespace {

template <class T>
bool add_kernels() {
  return layer_norm_forward.set(DeviceType::cuda, core::dtype_of<T>(), norm::forward<T, false>) &&
         layer_norm_backward.set(DeviceType::cuda, core::dtype_of<T>(), norm::backward<T, false>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<core::bf16>() && add_kernels<core::f16>();

}  // namespace
}  // namespace basis::ops
