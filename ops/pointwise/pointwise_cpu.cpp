#include "core/parallel.h"
#include "ops/common/functors.h"
#include "ops/pointwise/pointwise.h"

namespace basis::ops {
namespace {

constexpr int64_t kGrain = 1 << 14;

template <class F>
void each(int64_t n, F&& f) {
  core::parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

// f(i, j) over i in [0, n) with j = i mod period, without a division per element.
template <class F>
void each_repeated(int64_t n, int64_t period, F&& f) {
  if (n == period) return each(n, [&](int64_t i) { f(i, i); });
  core::parallel_for(n / period, std::max<int64_t>(1, kGrain / period), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < period; ++j) f(r * period + j, j);
  });
}

template <class F>
void with_functor(Unary kind, F&& f) {
  switch (kind) {
    case Unary::gelu_tanh:
      return f(GeluTanh{});
    case Unary::gelu_erf:
      return f(GeluErf{});
    case Unary::silu:
      return f(Silu{});
    case Unary::tanh:
      return f(Tanh{});
  }
}

template <class T>
void unary(Unary kind, const Tensor& x, const Tensor& y) {
  const T* in = x.data<T>();
  T* out = y.data<T>();
  with_functor(kind, [&]<class F>(F) { each(x.numel(), [=](int64_t i) { out[i] = F::value(in[i]); }); });
}

template <class T>
void unary_slope(Unary kind, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  const T *in = x.data<T>(), *g = dy.data<T>();
  T* out = dx.data<T>();
  with_functor(kind, [&]<class F>(F) { each(x.numel(), [=](int64_t i) { out[i] = g[i] * F::slope(in[i]); }); });
}

template <class T>
void add_cpu(double alpha, const Tensor& a, const Tensor& b, const Tensor& y) {
  const T *p = a.data<T>(), *q = b.data<T>(), s = T(alpha);
  T* out = y.data<T>();
  each_repeated(a.numel(), b.numel(), [=](int64_t i, int64_t j) { out[i] = s * p[i] + q[j]; });
}

template <class T>
void mul_cpu(const Tensor& a, const Tensor& b, const Tensor& y) {
  const T *p = a.data<T>(), *q = b.data<T>();
  T* out = y.data<T>();
  each_repeated(a.numel(), b.numel(), [=](int64_t i, int64_t j) { out[i] = p[i] * q[j]; });
}

template <class T>
void scale_cpu(double factor, const Tensor& x, const Tensor& y) {
  const T* in = x.data<T>();
  T *out = y.data<T>(), s = T(factor);
  each(x.numel(), [=](int64_t i) { out[i] = s * in[i]; });
}

template <class T>
void swiglu_cpu(const Tensor& gate, const Tensor& up, const Tensor& y) {
  const T *g = gate.data<T>(), *u = up.data<T>();
  T* out = y.data<T>();
  each(y.numel(), [=](int64_t i) { out[i] = Silu::value(g[i]) * u[i]; });
}

template <class T>
void swiglu_backward_cpu(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate,
                         const Tensor& dup) {
  const T *g = gate.data<T>(), *u = up.data<T>(), *d = dy.data<T>();
  T *dg = dgate.data<T>(), *du = dup.data<T>();
  each(dy.numel(), [=](int64_t i) {
    dg[i] = d[i] * u[i] * Silu::slope(g[i]);
    du[i] = d[i] * Silu::value(g[i]);
  });
}

REGISTER_KERNEL(unary_forward, cpu, f32, unary<float>)
REGISTER_KERNEL(unary_forward, cpu, f64, unary<double>)
REGISTER_KERNEL(unary_backward, cpu, f32, unary_slope<float>)
REGISTER_KERNEL(unary_backward, cpu, f64, unary_slope<double>)
REGISTER_KERNEL(add_forward, cpu, f32, add_cpu<float>)
REGISTER_KERNEL(add_forward, cpu, f64, add_cpu<double>)
REGISTER_KERNEL(mul_forward, cpu, f32, mul_cpu<float>)
REGISTER_KERNEL(mul_forward, cpu, f64, mul_cpu<double>)
REGISTER_KERNEL(scale_forward, cpu, f32, scale_cpu<float>)
REGISTER_KERNEL(scale_forward, cpu, f64, scale_cpu<double>)
REGISTER_KERNEL(swiglu_forward, cpu, f32, swiglu_cpu<float>)
REGISTER_KERNEL(swiglu_forward, cpu, f64, swiglu_cpu<double>)
REGISTER_KERNEL(swiglu_backward, cpu, f32, swiglu_backward_cpu<float>)
REGISTER_KERNEL(swiglu_backward, cpu, f64, swiglu_backward_cpu<double>)

}  // namespace
}  // namespace basis::ops
