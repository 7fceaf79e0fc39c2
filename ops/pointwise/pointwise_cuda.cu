#include "core/cuda/launch.cuh"
#include "ops/pointwise/functors.h"
#include "ops/pointwise/pointwise.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class F>
__global__ void each_kernel(int64_t n, F f) {
  grid_stride(n, f);
}
template <class F>
void each(const Tensor& like, F f) {
  launch(each_kernel<F>, like.device(), grid_for(like.numel(), kThreads), kThreads, like.numel(), f);
}

template <class T, class F>
void unary_of(const T* x, T* y, const Tensor& like) {
  each(like, [=] __device__(int64_t i) { y[i] = device_convert<T>(F::value(widen(x[i]))); });
}
template <class T, class F>
void slope_of(const T* x, const T* dy, T* dx, const Tensor& like) {
  each(like, [=] __device__(int64_t i) { dx[i] = device_convert<T>(widen(dy[i]) * F::slope(widen(x[i]))); });
}

template <class T>
void unary(Unary kind, const Tensor& x, const Tensor& y) {
  if (kind == Unary::gelu_tanh) return unary_of<T, GeluTanh>(x.data<T>(), y.data<T>(), x);
  if (kind == Unary::gelu_erf) return unary_of<T, GeluErf>(x.data<T>(), y.data<T>(), x);
  if (kind == Unary::silu) return unary_of<T, Silu>(x.data<T>(), y.data<T>(), x);
  unary_of<T, Tanh>(x.data<T>(), y.data<T>(), x);
}
template <class T>
void unary_slope(Unary kind, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  const T *in = x.data<T>(), *g = dy.data<T>();
  if (kind == Unary::gelu_tanh) return slope_of<T, GeluTanh>(in, g, dx.data<T>(), x);
  if (kind == Unary::gelu_erf) return slope_of<T, GeluErf>(in, g, dx.data<T>(), x);
  if (kind == Unary::silu) return slope_of<T, Silu>(in, g, dx.data<T>(), x);
  slope_of<T, Tanh>(in, g, dx.data<T>(), x);
}

template <class T>
void add_cuda(double alpha, const Tensor& a, const Tensor& b, const Tensor& y) {
  const T *p = a.data<T>(), *q = b.data<T>();
  T* out = y.data<T>();
  auto s = Accumulator<T>(alpha);
  int64_t period = b.numel();
  if (period == a.numel())
    return each(a, [=] __device__(int64_t i) { out[i] = device_convert<T>(s * widen(p[i]) + widen(q[i])); });
  each(a, [=] __device__(int64_t i) { out[i] = device_convert<T>(s * widen(p[i]) + widen(q[i % period])); });
}
template <class T>
void mul_cuda(const Tensor& a, const Tensor& b, const Tensor& y) {
  const T *p = a.data<T>(), *q = b.data<T>();
  T* out = y.data<T>();
  int64_t period = b.numel();
  each(a, [=] __device__(int64_t i) { out[i] = device_convert<T>(widen(p[i]) * widen(q[i % period])); });
}
template <class T>
void scale_cuda(double factor, const Tensor& x, const Tensor& y) {
  const T* in = x.data<T>();
  T* out = y.data<T>();
  auto s = Accumulator<T>(factor);
  each(x, [=] __device__(int64_t i) { out[i] = device_convert<T>(s * widen(in[i])); });
}
template <class T>
void swiglu_cuda(const Tensor& gate, const Tensor& up, const Tensor& y) {
  const T *g = gate.data<T>(), *u = up.data<T>();
  T* out = y.data<T>();
  each(y, [=] __device__(int64_t i) { out[i] = device_convert<T>(Silu::value(widen(g[i])) * widen(u[i])); });
}
template <class T>
void swiglu_backward_cuda(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate,
                          const Tensor& dup) {
  const T *g = gate.data<T>(), *u = up.data<T>(), *d = dy.data<T>();
  T *dg = dgate.data<T>(), *du = dup.data<T>();
  each(dy, [=] __device__(int64_t i) {
    auto x = widen(g[i]), dz = widen(d[i]);
    dg[i] = device_convert<T>(dz * widen(u[i]) * Silu::slope(x));
    du[i] = device_convert<T>(dz * Silu::value(x));
  });
}

template <class T>
bool add_kernels() {
  constexpr auto d = DeviceType::cuda;
  constexpr DType t = dtype_of<T>();
  return unary_forward.set(d, t, unary<T>) && unary_backward.set(d, t, unary_slope<T>) &&
         add_forward.set(d, t, add_cuda<T>) && mul_forward.set(d, t, mul_cuda<T>) &&
         scale_forward.set(d, t, scale_cuda<T>) && swiglu_forward.set(d, t, swiglu_cuda<T>) &&
         swiglu_backward.set(d, t, swiglu_backward_cuda<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
