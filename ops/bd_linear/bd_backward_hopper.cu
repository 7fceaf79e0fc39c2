// The backward kernel for tensors.
#include "ops/bd_linear/bd_backward_hopper.cuh"

#include "core/cuda/launch.cuh"
#include "ops/bd_linear/bd_hopper.h"

namespace basis::ops::bd {

bool backward_hopper_fits(const Tensor& dy, const Tensor& c, int64_t dh) {
  return (dy.dtype() == DType::bf16 || dy.dtype() == DType::f16) && is_hopper(dy.device()) && is_aligned(dy) &&
         is_aligned(c) && backward_fits(dy.size(0), dy.size(1), c.size(1) + dh, dh);
}

template <class T>
void backward_typed(const Tensor& dy, const Tensor& c, const Tensor& dx, int64_t dh, bool slice_in_front) {
  backward_hopper<T>(dy.data<T>(), c.data<T>(), dx.data<T>(), dy.size(0), dy.size(1), dx.size(1), dh, slice_in_front,
                     plan_backward(c.size(1)), multiprocessors_of(dy.device()), cuda_stream(dy.device()));
}

void backward_hopper(const Tensor& dy, const Tensor& c, const Tensor& dx, int64_t dh, bool slice_in_front) {
  if (dy.dtype() == DType::bf16)
    backward_typed<bf16>(dy, c, dx, dh, slice_in_front);
  else
    backward_typed<f16>(dy, c, dx, dh, slice_in_front);
}

}  // namespace basis::ops::bd
