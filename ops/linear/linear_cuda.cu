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

constexpr size_t kMost = 3;  // tensors of a launch

template <class T, class Out>
struct Columns {
  const T* x[kMost];
  Out* out[kMost];
};

template <int W, class T, class Out>
__global__ void __launch_bounds__(32 * kWarps) sum_kernel(Columns<T, Out> columns, int64_t n, int64_t c, int64_t rows) {
  using A = Accumulator<T>;
  __shared__ A partial[kWarps][32 * W + 1];
  const T* x = columns.x[blockIdx.z];
  Out* out = columns.out[blockIdx.z];
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
void sum_rows(Device device, const Columns<T, Out>& columns, size_t count, int64_t n, int64_t c, int64_t slices) {
  bool wide = aligned16<T>(c, {columns.x[0], columns.x[count > 1], columns.x[count - 1]});
  int64_t width = 32 * (wide ? kVecWidth<T> : 1);
  auto kernel = wide ? sum_kernel<kVecWidth<T>, T, Out> : sum_kernel<1, T, Out>;
  launch_shared(kernel, device, dim3(unsigned(ceil_div(c, width)), unsigned(slices), unsigned(count)), 32 * kWarps, 0,
                columns, n, c, ceil_div(n, slices));
}

// Of `count` tensors: a first launch sums slices of rows, a second one the slices.
template <class T, class Out>
void sum_columns(Device device, const Columns<T, Out>& columns, size_t count, int64_t n, int64_t c) {
  using A = Accumulator<T>;
  int64_t slices = std::min<int64_t>(256, ceil_div(n, kRowsOfBlock));
  if (slices <= 1) return sum_rows(device, columns, count, n, c, 1);
  Tensor partial = Tensor::empty({int64_t(count), slices, c}, dtype_of<A>(), device);
  Columns<T, A> first{};
  Columns<A, Out> second{};
  for (size_t i = 0; i < count; ++i) {
    A* mine = partial.data<A>() + int64_t(i) * slices * c;
    first.x[i] = columns.x[i], first.out[i] = mine;
    second.x[i] = mine, second.out[i] = columns.out[i];
  }
  sum_rows(device, first, count, n, c, slices);
  sum_rows(device, second, count, slices, c, 1);
}

template <class T>
void column_sums_cuda(const autograd::Tensors& xs, const autograd::Tensors& outs) {
  using A = Accumulator<T>;
  auto run = [&]<class Out>(std::type_identity<Out>) {
    for (size_t begin = 0; begin < xs.size(); begin += kMost) {
      Columns<T, Out> columns{};
      size_t count = std::min(kMost, xs.size() - begin);
      for (size_t i = 0; i < count; ++i)
        columns.x[i] = xs[begin + i].data<T>(), columns.out[i] = outs[begin + i].data<Out>();
      sum_columns(xs[0].device(), columns, count, xs[0].size(0), xs[0].size(1));
    }
  };
  if (outs[0].dtype() == dtype_of<T>())
    run(std::type_identity<T>{});
  else
    run(std::type_identity<A>{});
}

template <class T>
void column_sum_cuda(const Tensor& x, const Tensor& out) {
  column_sums_cuda<T>({x}, {out});
}

template <class T>
bool add_kernels() {
  return column_sum.set(DeviceType::cuda, dtype_of<T>(), column_sum_cuda<T>) &&
         column_sums.set(DeviceType::cuda, dtype_of<T>(), column_sums_cuda<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
