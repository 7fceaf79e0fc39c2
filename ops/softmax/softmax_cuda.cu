// One block per row. Forward reads x twice (the second time from cache for usual rows) and writes y once.
#include "core/cuda/launch.cuh"
#include "ops/softmax/softmax.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class T>
__global__ void forward_kernel(const T* x, T* y, int64_t c) {
  using A = Accumulator<T>;
  x += blockIdx.x * c, y += blockIdx.x * c;
  A top = -A(INFINITY);
  for (int64_t i = threadIdx.x; i < c; i += kThreads) top = Max::apply(widen(x[i]), top);
  top = block_reduce<Max, kThreads>(top);
  A sum = 0;
  for (int64_t i = threadIdx.x; i < c; i += kThreads) sum += exp(widen(x[i]) - top);
  A scale = 1 / block_reduce<Sum, kThreads>(sum);
  for (int64_t i = threadIdx.x; i < c; i += kThreads) y[i] = device_convert<T>(exp(widen(x[i]) - top) * scale);
}

template <class T>
__global__ void backward_kernel(const T* y, const T* dy, T* dx, int64_t c) {
  using A = Accumulator<T>;
  y += blockIdx.x * c, dy += blockIdx.x * c, dx += blockIdx.x * c;
  A dot = 0;
  for (int64_t i = threadIdx.x; i < c; i += kThreads) dot += widen(y[i]) * widen(dy[i]);
  dot = block_reduce<Sum, kThreads>(dot);
  for (int64_t i = threadIdx.x; i < c; i += kThreads) dx[i] = device_convert<T>(widen(y[i]) * (widen(dy[i]) - dot));
}

template <class T>
void forward(const Tensor& x, const Tensor& y) {
  int64_t c = x.size(-1);
  launch(forward_kernel<T>, x.device(), x.numel() / c, kThreads, x.data<T>(), y.data<T>(), c);
}
template <class T>
void backward(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  int64_t c = y.size(-1);
  launch(backward_kernel<T>, y.device(), y.numel() / c, kThreads, y.data<T>(), dy.data<T>(), dx.data<T>(), c);
}

template <class T>
bool add_kernels() {
  return softmax_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         softmax_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
