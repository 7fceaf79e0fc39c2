// Column sums of [n, c] in a fixed order. Memory-bound: every element is read once, 16 bytes a lane where the addresses
// allow it. A thread owns a vector of columns and a slice of the rows; a second kernel adds up the slices.
#include "core/cuda/launch.cuh"
#include "ops/linear/linear.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kMostThreads = 256, kWarps = 32;
constexpr size_t kMost = 3;  // tensors of a launch

template <class T, class Out>
struct Columns {
  const T* x[kMost];
  Out* out[kMost];
};

// out [gridDim.y, c]: of each slice of rows.
template <int W, class T>
__global__ void __launch_bounds__(kMostThreads)
    slices_kernel(Columns<T, Accumulator<T>> columns, int64_t n, int64_t c, int64_t rows) {
  using A = Accumulator<T>;
  const T* x = columns.x[blockIdx.z];
  int64_t j = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  int64_t begin = blockIdx.y * rows, end = begin + rows < n ? begin + rows : n;
  if (j >= c) return;
  A sum[W] = {};
#pragma unroll 8
  for (int64_t i = begin; i < end; ++i) {
    Vec<T, W> v = load_vec<W>(x + i * c + j);
#pragma unroll
    for (int k = 0; k < W; ++k) sum[k] += widen(v.v[k]);
  }
  A* out = columns.out[blockIdx.z] + blockIdx.y * c + j;
#pragma unroll
  for (int k = 0; k < W; ++k) out[k] = sum[k];
}

// A block takes 32 columns; its warps take every so-manieth row and are added in order.
template <class T, class Out>
__global__ void __launch_bounds__(32 * kWarps) sum_kernel(Columns<T, Out> columns, int64_t n, int64_t c) {
  using A = Accumulator<T>;
  __shared__ A partial[kWarps][33];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t j = int64_t(blockIdx.x) * 32 + lane;
  const T* x = columns.x[blockIdx.z];
  A sum = 0;
  if (j < c) {
#pragma unroll 8
    for (int64_t i = warp; i < n; i += kWarps) sum += widen(x[i * c + j]);
  }
  partial[warp][lane] = sum;
  __syncthreads();
  A total = warp_reduce<Sum>(partial[lane][warp]);
  j = int64_t(blockIdx.x) * 32 + warp;
  if (lane == 0 && j < c) columns.out[blockIdx.z][j] = device_convert<Out>(total);
}

template <class T, class Out>
void add_rows(Device device, const Columns<T, Out>& columns, size_t count, int64_t n, int64_t c) {
  launch_shared(sum_kernel<T, Out>, device, dim3(unsigned(ceil_div(c, 32)), 1, unsigned(count)), 32 * kWarps, 0,
                columns, n, c);
}

// Of `count` tensors: one launch where they are short, as partial sums are; else a first one for slices of rows.
template <class T, class Out>
void sum_columns(Device device, const Columns<T, Out>& columns, size_t count, int64_t n, int64_t c) {
  using A = Accumulator<T>;
  if (n <= 1024) return add_rows(device, columns, count, n, c);
  bool wide = aligned16<T>(c, {columns.x[0], columns.x[count > 1], columns.x[count - 1]});
  auto kernel = wide ? slices_kernel<kVecWidth<T>, T> : slices_kernel<1, T>;
  int64_t vectors = wide ? c / kVecWidth<T> : c, tiles = ceil_div(vectors, kMostThreads);
  int threads = int(ceil_div(ceil_div(vectors, tiles), 32) * 32);
  int64_t rows = ceil_div(n, std::clamp<int64_t>(resident_blocks(kernel, threads) / (tiles * int64_t(count)), 1, 1024));
  int64_t slices = ceil_div(n, rows);
  Tensor partial = Tensor::empty({int64_t(count), slices, c}, dtype_of<A>(), device);
  Columns<T, A> first{};
  Columns<A, Out> second{};
  for (size_t i = 0; i < count; ++i) {
    A* mine = partial.data<A>() + int64_t(i) * slices * c;
    first.x[i] = columns.x[i], first.out[i] = mine;
    second.x[i] = mine, second.out[i] = columns.out[i];
  }
  launch_shared(kernel, device, dim3(unsigned(tiles), unsigned(slices), unsigned(count)), threads, 0, first, n, c,
                rows);
  add_rows(device, second, count, slices, c);
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
