// One thread per Philox block of four elements: the mask is recomputed in backward, never stored.
#include "core/cuda/launch.cuh"
#include "ops/dropout/dropout.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class T>
__global__ void kernel(uint64_t seed, uint64_t stream, float p, Accumulator<T> scale, const T* x, T* y, int64_t n) {
  grid_stride(ceil_div(n, 4), [&](int64_t block) {
    Philox4 r = philox(seed, stream, uint64_t(block));
    const uint32_t words[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int64_t i = 4 * block + j;
      if (i < n) y[i] = device_convert<T>(uniform_from_bits(words[j]) >= p ? widen(x[i]) * scale : Accumulator<T>(0));
    }
  });
}

template <class T>
void dropout_cuda(const DropoutOptions& o, const Tensor& x, const Tensor& y) {
  launch(kernel<T>, x.device(), grid_for(ceil_div(x.numel(), 4), kThreads), kThreads, o.seed, o.stream, float(o.p),
         Accumulator<T>(1 / (1 - o.p)), x.data<T>(), y.data<T>(), x.numel());
}

REGISTER_KERNEL(dropout_kernel, cuda, f32, dropout_cuda<float>)
REGISTER_KERNEL(dropout_kernel, cuda, f64, dropout_cuda<double>)
REGISTER_KERNEL(dropout_kernel, cuda, bf16, dropout_cuda<bf16>)
REGISTER_KERNEL(dropout_kernel, cuda, f16, dropout_cuda<f16>)

}  // namespace
}  // namespace basis::ops
