// Column sums of [n, c] in a fixed order. Memory-bound: every element is read once, 16 bytes a lane where the addresses
// allow it. A block owns 32 vectors of columns and a slice of the rows; its warps take every so-manieth row and are
// added in order, into one row of partial sums. The same kernel then adds up the partial rows.
#include "core/cuda/launch.cuh"
#include "ops/linear/linear.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kWarps = 8;
constexpr int64_t kRowsOfBlock = 128;  // at least, so that a block reads 32 vectors of each

template <int W, class T, class Out>
__global__ void __launch_bounds__(32 * kWarps) sum_kernel(const T* x, Out* out, int64_t n, int64_t c, int64_t rows) {
  using A = Accumulator<T>;
  __shared__ A partial[kWarps][32 * W + 1];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t first = int64_t(blockIdx.x) * 32 * W, j = first + lane * W;
  int64_t begin = blockIdx.y * rows, end = begin + rows < n ? begin + rows : n;
  A sum[W] = {};
  if (j < c) {
#pragma unroll 4
    for (int64_t i = begin + warp; i < end; i += kWarps) {
      Vec<T, W> v = load_vec<W>(x + i * c + j);
#pragma unroll
      for (int k = 0; k < W; ++k) sum[k] += widen(v.v[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < W; ++k) partial[warp][lane * W + k] = sum[k];
  __syncthreads();
  for (int k = threadIdx.x; k < 32 * W && first + k < c; k += 32 * kWarps) {
    A total = 0;
    for (int w = 0; w < kWarps; ++w) total += partial[w][k];
    out[blockIdx.y * c + first + k] = device_convert<Out>(total);
  }
}

template <class T, class Out>
void sum_rows(Device device, const T* x, Out* out, int64_t n, int64_t c, int64_t slices) {
  bool wide = aligned16<T>(c, {x});
  int64_t columns = 32 * (wide ? kVecWidth<T> : 1);
  auto kernel = wide ? sum_kernel<kVecWidth<T>, T, Out> : sum_kernel<1, T, Out>;
  launch_shared(kernel, device, dim3(unsigned(ceil_div(c, columns)), unsigned(slices)), 32 * kWarps, 0, x, out, n, c,
                ceil_div(n, slices));
}

template <class T>
void column_sum_cuda(const Tensor& x, const Tensor& out) {
  using A = Accumulator<T>;
  int64_t n = x.size(0), c = x.size(1), slices = std::min<int64_t>(256, ceil_div(n, kRowsOfBlock));
  Tensor partial;
  if (slices > 1) {
    partial = Tensor::empty({slices, c}, dtype_of<A>(), x.device());
    sum_rows(x.device(), x.data<T>(), partial.data<A>(), n, c, slices);
  }
  auto finish = [&](auto* to) {
    if (partial)
      sum_rows(x.device(), partial.data<A>(), to, slices, c, 1);
    else
      sum_rows(x.device(), x.data<T>(), to, n, c, 1);
  };
  if (out.dtype() == dtype_of<T>())
    finish(out.data<T>());
  else
    finish(out.data<A>());
}

REGISTER_KERNEL(column_sum, cuda, f32, column_sum_cuda<float>)
REGISTER_KERNEL(column_sum, cuda, f64, column_sum_cuda<double>)
REGISTER_KERNEL(column_sum, cuda, bf16, column_sum_cuda<bf16>)
REGISTER_KERNEL(column_sum, cuda, f16, column_sum_cuda<f16>)

}  // namespace
}  // namespace basis::ops
