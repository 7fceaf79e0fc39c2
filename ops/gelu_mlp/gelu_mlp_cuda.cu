// GELU and its slope are memory-bound passes: 4 bytes a hidden channel forward, 6 backward in 16 bits, where the first
// bias's gradient is summed on the way. With `epilogue`, halves with widths of eight go through cuBLASLt's epilogues
// instead, which move the hidden channels once; on an H200 the products lost more than that by it.
#include "core/gemm/gemm.h"
#include "ops/common/column_sum.h"
#include "ops/common/map_cuda.cuh"
#include "ops/gelu_mlp/gelu_mlp.h"

namespace basis::ops {
namespace {

template <class T>
using Gelu = GeluTanhBy<MathOf<T>>;

template <class T>
bool has_epilogue(const GeluMlpOptions& o, const Tensor& a, const Tensor& pre) {
  return o.epilogue && sizeof(T) == 2 && pre.size(1) % 8 == 0 && a.size(1) % 8 == 0;
}

// The grid of the two kernels below on [n, c]: a thread owns a vector of W columns, a block up to 256 of them and a
// slice of the rows, one row after the other; as many slices as run at once.
constexpr int kMostThreads = 256;

struct Tiles {
  int threads;
  dim3 grid;
  int64_t rows;  // of a slice

  template <class... Params>
  Tiles(void (*kernel)(Params...), int64_t n, int64_t c, int w) {
    int64_t columns = ceil_div(ceil_div(c, w), kMostThreads);
    threads = int(ceil_div(ceil_div(ceil_div(c, w), columns), 32) * 32);
    rows = ceil_div(n, std::clamp<int64_t>(resident_blocks(kernel, threads) / columns, 1, ceil_div(n, 8)));
    grid = dim3(unsigned(columns), unsigned(ceil_div(n, rows)));
  }
};

// hidden = gelu(pre + bias)
template <int W, class T>
__global__ void __launch_bounds__(kMostThreads)
    value_kernel(const T* pre, const T* bias, T* hidden, int64_t n, int64_t c, int64_t rows) {
  int64_t j = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  int64_t begin = blockIdx.y * rows, end = begin + rows < n ? begin + rows : n;
  if (j >= c) return;
  Vec<T, W> b = load_vec<W>(bias + j);
#pragma unroll 4
  for (int64_t i = begin; i < end; ++i) {
    Vec<T, W> v = load_vec<W>(pre + i * c + j);
#pragma unroll
    for (int k = 0; k < W; ++k) v.v[k] = device_convert<T>(Gelu<T>::value(widen(v.v[k]) + widen(b.v[k])));
    store_vec(hidden + i * c + j, v);
  }
}

template <class T>
void add_bias_and_gelu(const Tensor& pre, const Tensor& bias, const Tensor& hidden) {
  int64_t n = pre.size(0), c = pre.size(1);
  bool wide = aligned16<T>(c, {pre.data<T>(), bias.data<T>(), hidden.data<T>()});
  auto kernel = wide ? value_kernel<kVecWidth<T>, T> : value_kernel<1, T>;
  Tiles t(kernel, n, c, wide ? kVecWidth<T> : 1);
  launch_shared(kernel, pre.device(), t.grid, t.threads, 0, pre.data<T>(), bias.data<T>(), hidden.data<T>(), n, c,
                t.rows);
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
    map<T>({pre}, {hidden}, [] __device__(const A* a, A* b) { b[0] = Gelu<T>::value(a[0]); });
}

// d *= gelu'(pre + bias); the columns' sums over each slice of rows go to partial [gridDim.y, c].
template <int W, class T>
__global__ void __launch_bounds__(kMostThreads)
    slope_kernel(const T* pre, const T* bias, T* d, Accumulator<T>* partial, int64_t n, int64_t c, int64_t rows) {
  using A = Accumulator<T>;
  int64_t j = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  int64_t begin = blockIdx.y * rows, end = begin + rows < n ? begin + rows : n;
  if (j >= c) return;
  A sum[W] = {};
  Vec<T, W> b = load_vec<W>(bias + j);
#pragma unroll 2
  for (int64_t i = begin; i < end; ++i) {
    Vec<T, W> p = load_vec<W>(pre + i * c + j), v = load_vec<W>(d + i * c + j);
#pragma unroll
    for (int k = 0; k < W; ++k) {
      A slope = widen(v.v[k]) * Gelu<T>::slope(widen(p.v[k]) + widen(b.v[k]));
      sum[k] += slope;
      v.v[k] = device_convert<T>(slope);
    }
    store_vec(d + i * c + j, v);
  }
#pragma unroll
  for (int k = 0; k < W; ++k) partial[blockIdx.y * c + j + k] = sum[k];
}

template <class T>
void slope_and_sums(const Tensor& pre, const Tensor& bias, const Tensor& d, const Tensor& dbias) {
  using A = Accumulator<T>;
  int64_t n = pre.size(0), c = pre.size(1);
  bool wide = aligned16<T>(c, {pre.data<T>(), bias.data<T>(), d.data<T>()});
  auto kernel = wide ? slope_kernel<kVecWidth<T>, T> : slope_kernel<1, T>;
  Tiles t(kernel, n, c, wide ? kVecWidth<T> : 1);
  Tensor partial = Tensor::empty({int64_t(t.grid.y), c}, dtype_of<A>(), pre.device());
  launch_shared(kernel, pre.device(), t.grid, t.threads, 0, pre.data<T>(), bias.data<T>(), d.data<T>(),
                partial.data<A>(), n, c, t.rows);
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
    map<T>({pre, dpre, bias}, {dpre}, [] __device__(const A* a, A* b) { b[0] = a[1] * Gelu<T>::slope(a[0] + a[2]); });
  else
    map<T>({pre, dpre}, {dpre}, [] __device__(const A* a, A* b) { b[0] = a[1] * Gelu<T>::slope(a[0]); });
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
