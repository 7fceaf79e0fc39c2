// One thread an element; the side that is written (or read) in order is coalesced, the other stays within a row.
#include "core/cuda/launch.cuh"
#include "ops/permute_channels/permute_channels.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class T>
__global__ void kernel(const T* from, const int32_t* order, bool inverse, T* to, int64_t n, int64_t c) {
  grid_stride(n, [&](int64_t at) {
    int64_t j = at % c, other = at - j + order[j];
    if (inverse)
      to[other] = from[at];
    else
      to[at] = from[other];
  });
}

template <class T>
void permute_cuda(const Tensor& from, const Tensor& order, bool inverse, const Tensor& to) {
  launch(kernel<T>, from.device(), grid_for(from.numel(), kThreads), kThreads, from.data<T>(), order.data<int32_t>(),
         inverse, to.data<T>(), from.numel(), from.size(1));
}

REGISTER_KERNEL(permute_channels_kernel, cuda, f32, permute_cuda<float>)
REGISTER_KERNEL(permute_channels_kernel, cuda, f64, permute_cuda<double>)
REGISTER_KERNEL(permute_channels_kernel, cuda, bf16, permute_cuda<bf16>)
REGISTER_KERNEL(permute_channels_kernel, cuda, f16, permute_cuda<f16>)

}  // namespace
}  // namespace basis::ops
