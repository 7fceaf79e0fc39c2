// GELU and its slope are memory-bound passes: 4 bytes a hidden channel forward, 6 backward in 16 bits, where the first
// bias's gradient is summed on the way. With `epilogue`, halves with widths of eight go through cuBLASLt's epilogues
// instead, which move the hidden channels once; on an H200 the products lost more than that by it.
#include "core/gemm/gemm.h"
#include "ops/common/column_sum.h"
#include "ops/common/functors.h"
#include "ops/common/map_cuda.cuh"
#include "ops/gelu_mlp/gelu_mlp.h"

namespace basis::ops {
namespace {

constexpr int kWarps = 8;
constexpr int64_t kRowsOfBlock = 128;  // at least

template <class T>
bool has_epilogue(const GeluMlpOptions& o, const Tensor& a, const Tensor& pre) {
  return o.epilogue && sizeof(T) == 2 && pre.size(1) % 8 == 0 && a.size(1) % 8 == 0;
}

// The grid of the two kernels below on [n, c]: a block owns 32 vectors of columns and a slice of the rows.
template <class T>
struct Tiles {
  bool wide;
  dim3 grid;
  int64_t rows;  // of a slice

  Tiles(int64_t n, int64_t c, std::initializer_list<const T*> pointers) : wide(aligned16<T>(c, pointers)) {
    int64_t slices = std::min<int64_t>(256, ceil_div(n, kRowsOfBlock));
    grid = dim3(unsigned(ceil_div(c, 32 * (wide ? kVecWidth<T> : 1))), unsigned(slices));
    rows = ceil_div(n, slices);
  }
};

// hidden = gelu(pre + bias)
template <int W, class T>
__global__ void __launch_bounds__(32 * kWarps)
    value_kernel(const T* pre, const T* bias, T* hidden, int64_t n, int64_t c, int64_t rows) {
  int64_t j = (int64_t(blockIdx.x) * 32 + threadIdx.x % 32) * W;
  int64_t begin = blockIdx.y * rows, end = begin + rows < n ? begin + rows : n;
  if (j >= c) return;
  Vec<T, W> b = load_vec<W>(bias + j);
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x / 32; i < end; i += kWarps) {
    Vec<T, W> v = load_vec<W>(pre + i * c + j);
#pragma unroll
    for (int k = 0; k < W; ++k) v.v[k] = device_convert<T>(GeluTanh::value(widen(v.v[k]) + widen(b.v[k])));
    store_vec(hidden + i * c + j, v);
  }
}

template <class T>
void add_bias_and_gelu(const Tensor& pre, const Tensor& bias, const Tensor& hidden) {
  int64_t n = pre.size(0), c = pre.size(1);
  Tiles<T> t(n, c, {pre.data<T>(), bias.data<T>(), hidden.data<T>()});
  launch_shared(t.wide ? value_kernel<kVecWidth<T>, T> : value_kernel<1, T>, pre.device(), t.grid, 32 * kWarps, 0,
                pre.data<T>(), bias.data<T>(), hidden.data<T>(), n, c, t.rows);
}

template <class T>
void up_cuda(const GeluMlpOptions& o, const Tensor& x, const Tensor& up, const Tensor& bias, const Tensor& pre,
             const Tensor& hidden) {
  if (has_epilogue<T>(o, x, pre)) {
    Gemm g{.trans_b = true, .m = pre.size(0), .n = pre.size(1), .k = x.size(1)};
    g.a = x.raw(), g.b = up.raw(), g.c = hidden.raw(), g.bias = bias.raw();
    g.lda = g.ldb = g.k, g.ldc = g.n, g.epilogue = Epilogue::gelu, g.aux = pre.raw();
    return gemm(g, x.dtype(), x.device());
  }
  using A = Accumulator<T>;
  core::matmul(x, false, up, true, pre);
  if (bias)
    add_bias_and_gelu<T>(pre, bias, hidden);
  else
    map<T>({pre}, {hidden}, [] __device__(const A* a, A* b) { b[0] = GeluTanh::value(a[0]); });
}

// d *= gelu'(pre + bias); the columns' sums over each slice of rows go to partial [gridDim.y, c].
template <int W, class T>
__global__ void __launch_bounds__(32 * kWarps)
    slope_kernel(const T* pre, const T* bias, T* d, Accumulator<T>* partial, int64_t n, int64_t c, int64_t rows) {
  using A = Accumulator<T>;
  __shared__ A sums[kWarps][32 * W + 1];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t first = int64_t(blockIdx.x) * 32 * W, j = first + lane * W;
  int64_t begin = blockIdx.y * rows, end = begin + rows < n ? begin + rows : n;
  A sum[W] = {};
  if (j < c) {
    Vec<T, W> b = load_vec<W>(bias + j);
#pragma unroll 2
    for (int64_t i = begin + warp; i < end; i += kWarps) {
      Vec<T, W> p = load_vec<W>(pre + i * c + j), v = load_vec<W>(d + i * c + j);
#pragma unroll
      for (int k = 0; k < W; ++k) {
        A slope = widen(v.v[k]) * GeluTanh::slope(widen(p.v[k]) + widen(b.v[k]));
        sum[k] += slope;
        v.v[k] = device_convert<T>(slope);
      }
      store_vec(d + i * c + j, v);
    }
  }
#pragma unroll
  for (int k = 0; k < W; ++k) sums[warp][lane * W + k] = sum[k];
  __syncthreads();
  for (int k = threadIdx.x; k < 32 * W && first + k < c; k += 32 * kWarps) {
    A total = 0;
    for (int w = 0; w < kWarps; ++w) total += sums[w][k];
    partial[blockIdx.y * c + first + k] = total;
  }
}

template <class T>
void slope_and_sums(const Tensor& pre, const Tensor& bias, const Tensor& d, const Tensor& dbias) {
  using A = Accumulator<T>;
  int64_t n = pre.size(0), c = pre.size(1);
  Tiles<T> t(n, c, {pre.data<T>(), bias.data<T>(), d.data<T>()});
  Tensor partial = Tensor::empty({int64_t(t.grid.y), c}, dtype_of<A>(), pre.device());
  launch_shared(t.wide ? slope_kernel<kVecWidth<T>, T> : slope_kernel<1, T>, pre.device(), t.grid, 32 * kWarps, 0,
                pre.data<T>(), bias.data<T>(), d.data<T>(), partial.data<A>(), n, c, t.rows);
  column_sum(DeviceType::cuda, dtype_of<A>(), partial, dbias);
}

template <class T>
void down_backward_cuda(const GeluMlpOptions& o, const Tensor& dy, const Tensor& down, const Tensor& pre,
                        const Tensor& bias, const Tensor& dpre, const Tensor& dbias) {
  if (has_epilogue<T>(o, dy, pre)) {
    Gemm g{.m = pre.size(0), .n = pre.size(1), .k = dy.size(1)};
    g.a = dy.raw(), g.b = down.raw(), g.c = dpre.raw(), g.bias = dbias.raw();
    g.lda = g.k, g.ldb = g.ldc = g.n, g.epilogue = Epilogue::gelu_backward, g.aux = pre.raw();
    return gemm(g, dy.dtype(), dy.device());
  }
  using A = Accumulator<T>;
  core::matmul(dy, false, down, false, dpre);
  if (dbias && dbias.dtype() == dtype_of<A>()) return slope_and_sums<T>(pre, bias, dpre, dbias);
  if (bias)
    map<T>({pre, dpre, bias}, {dpre}, [] __device__(const A* a, A* b) { b[0] = a[1] * GeluTanh::slope(a[0] + a[2]); });
  else
    map<T>({pre, dpre}, {dpre}, [] __device__(const A* a, A* b) { b[0] = a[1] * GeluTanh::slope(a[0]); });
  if (dbias) column_sum(DeviceType::cuda, dpre.dtype(), dpre, dbias);
}

template <class T>
bool add_kernels() {
  return gelu_mlp_up.set(DeviceType::cuda, dtype_of<T>(), up_cuda<T>) &&
         gelu_mlp_down_backward.set(DeviceType::cuda, dtype_of<T>(), down_backward_cuda<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
