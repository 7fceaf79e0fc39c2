// Column sums in a fixed order: a block owns 32 columns; its 32 warps take every 32nd row each and are added in order.
#include "core/cuda/launch.cuh"
#include "ops/linear/linear.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kWarps = 32;

template <class T>
__global__ void __launch_bounds__(32 * kWarps) kernel(const T* x, T* out, int64_t n, int64_t c) {
  using A = Accumulator<T>;
  __shared__ A partial[kWarps][33];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t j = int64_t(blockIdx.x) * 32 + lane;
  A sum = 0;
  if (j < c)
    for (int64_t i = warp; i < n; i += kWarps) sum += widen(x[i * c + j]);
  partial[warp][lane] = sum;
  __syncthreads();
  A total = warp_reduce<Sum>(partial[lane][warp]);  // this warp adds up column `warp` of the block
  j = int64_t(blockIdx.x) * 32 + warp;
  if (lane == 0 && j < c) out[j] = device_convert<T>(total);
}

template <class T>
void column_sum_cuda(const Tensor& x, const Tensor& out) {
  int64_t c = x.size(1);
  launch(kernel<T>, x.device(), ceil_div(c, 32), 32 * kWarps, x.data<T>(), out.data<T>(), x.size(0), c);
}

REGISTER_KERNEL(column_sum, cuda, f32, column_sum_cuda<float>)
REGISTER_KERNEL(column_sum, cuda, f64, column_sum_cuda<double>)
REGISTER_KERNEL(column_sum, cuda, bf16, column_sum_cuda<bf16>)
REGISTER_KERNEL(column_sum, cuda, f16, column_sum_cuda<f16>)

}  // namespace
}  // namespace basis::ops
