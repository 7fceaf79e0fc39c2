// The forward kernel for tensors.
#include "ops/bd_linear/bd_forward_pingpong.cuh"

#include "core/cuda/launch.cuh"
#include "ops/bd_linear/bd_hopper.h"

namespace basis::ops::bd {

bool is_hopper(Device device) {
  int major = 0, minor = 0;
  if (device.type != DeviceType::cuda) return false;
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index));
  return major == 9 && minor == 0;
}

int multiprocessors_of(Device device) {
  int count = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device.index));
  return count;
}

bool forward_hopper_fits(const Tensor& x, const Tensor& c, int64_t dh) {
  return (x.dtype() == DType::bf16 || x.dtype() == DType::f16) && is_hopper(x.device()) && is_aligned(x) &&
         is_aligned(c) && forward_fits(x.size(0), c.size(0), x.size(1), dh);
}

template <class T>
void forward_typed(const Tensor& x, const Tensor& c, const Tensor& y, int64_t dh, bool slice_in_front) {
  int64_t m = x.size(0), d = x.size(1), n = c.size(0);
  ForwardPlan plan = plan_forward(int(ceil_div(d - dh, kTileK)));
  forward_planned<T>(x.data<T>(), c.data<T>(), y.data<T>(), m, n, d, dh, slice_in_front, plan,
                     multiprocessors_of(x.device()), cuda_stream(x.device()));
}

void forward_hopper(const Tensor& x, const Tensor& c, const Tensor& y, int64_t dh, bool slice_in_front) {
  if (x.dtype() == DType::bf16)
    forward_typed<bf16>(x, c, y, dh, slice_in_front);
  else
    forward_typed<f16>(x, c, y, dh, slice_in_front);
}

}  // namespace basis::ops::bd
