// The slice written and summed by memory-bound kernels, for GPUs and shapes without a fused kernel; the chooser.
#include "core/cuda/launch.cuh"
#include "ops/bd_linear/bd_hopper.h"
#include "ops/bd_linear/bd_linear.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

// One thread per W columns of y.
template <int W, class T>
__global__ void repeat_kernel(const T* slice, T* y, int64_t rows, int64_t d, int64_t n, int64_t dh) {
  int64_t vectors = n / W;
  grid_stride(rows * vectors, [&](int64_t at) {
    int64_t i = at / vectors, j = at % vectors * W;
    store_vec(y + i * n + j, load_vec<W>(slice + i * d + j % dh));
  });
}

// One thread per W channels of the slice: the heads in order.
template <int W, class T>
__global__ void sum_heads_kernel(const T* dy, T* slice, int64_t rows, int64_t d, int64_t n, int64_t dh) {
  int64_t vectors = dh / W;
  grid_stride(rows * vectors, [&](int64_t at) {
    int64_t i = at / vectors, j = at % vectors * W;
    Accumulator<T> sum[W] = {};
#pragma unroll 4
    for (int64_t h = 0; h < n; h += dh) {
      Vec<T, W> v = load_vec<W>(dy + i * n + h + j);
#pragma unroll
      for (int k = 0; k < W; ++k) sum[k] += widen(v.v[k]);
    }
    Vec<T, W> out;
#pragma unroll
    for (int k = 0; k < W; ++k) out.v[k] = device_convert<T>(sum[k]);
    store_vec(slice + i * d + j, out);
  });
}

template <class T>
bool vectors(const T* a, const T* b, int64_t d, int64_t dh) {
  return aligned16<T>(d, {a, b}) && dh % kVecWidth<T> == 0;
}

template <class T>
void repeat_cuda(const Tensor& x, const BdOptions& o, const Tensor& y) {
  int64_t m = x.size(0), d = x.size(1), n = y.size(1), dh = o.head_dim;
  const T* slice = x.data<T>() + (o.slice_at_back ? d - dh : 0);
  bool wide = vectors<T>(slice, y.data<T>(), d, dh);
  launch(wide ? repeat_kernel<kVecWidth<T>, T> : repeat_kernel<1, T>, x.device(), grid_for(m * n, kThreads), kThreads,
         slice, y.data<T>(), m, d, n, dh);
}

template <class T>
void sum_heads_cuda(const Tensor& dy, const BdOptions& o, const Tensor& dx) {
  int64_t m = dy.size(0), d = dx.size(1), n = dy.size(1), dh = o.head_dim;
  T* slice = dx.data<T>() + (o.slice_at_back ? d - dh : 0);
  bool wide = vectors<T>(dy.data<T>(), slice, d, dh);
  launch(wide ? sum_heads_kernel<kVecWidth<T>, T> : sum_heads_kernel<1, T>, dy.device(), grid_for(m * dh, kThreads),
         kThreads, dy.data<T>(), slice, m, d, n, dh);
}

REGISTER_KERNEL(bd_repeat, cuda, f32, repeat_cuda<float>)
REGISTER_KERNEL(bd_repeat, cuda, f64, repeat_cuda<double>)
REGISTER_KERNEL(bd_repeat, cuda, bf16, repeat_cuda<bf16>)
REGISTER_KERNEL(bd_repeat, cuda, f16, repeat_cuda<f16>)
REGISTER_KERNEL(bd_sum_heads, cuda, f32, sum_heads_cuda<float>)
REGISTER_KERNEL(bd_sum_heads, cuda, f64, sum_heads_cuda<double>)
REGISTER_KERNEL(bd_sum_heads, cuda, bf16, sum_heads_cuda<bf16>)
REGISTER_KERNEL(bd_sum_heads, cuda, f16, sum_heads_cuda<f16>)

void fused_forward(const Tensor& x, const Tensor& w, const BdOptions& o, const Tensor& y, bool& done) {
  done = bd::forward_hopper_fits(x, w, o.head_dim) && bd::is_aligned(y);
  if (done) bd::forward_hopper(x, w, y, o.head_dim, !o.slice_at_back);
}
void fused_backward(const Tensor& dy, const Tensor& w, const BdOptions& o, const Tensor& dx, bool& done) {
  done = bd::backward_hopper_fits(dy, w, o.head_dim) && bd::is_aligned(dx);
  if (done) bd::backward_hopper(dy, w, dx, o.head_dim, !o.slice_at_back);
}

REGISTER_KERNEL(bd_fused_forward, cuda, bf16, fused_forward)
REGISTER_KERNEL(bd_fused_forward, cuda, f16, fused_forward)
REGISTER_KERNEL(bd_fused_backward, cuda, bf16, fused_backward)
REGISTER_KERNEL(bd_fused_backward, cuda, f16, fused_backward)

}  // namespace
}  // namespace basis::ops
