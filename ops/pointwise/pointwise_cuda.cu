// Every function here is one pass over memory, 16 bytes at a time where the addresses allow it: In inputs, Out outputs,
// and a body on widened values.
#include "core/cuda/launch.cuh"
#include "ops/pointwise/functors.h"
#include "ops/pointwise/pointwise.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

// The tensors of one call. Input i repeats with period[i] elements (a broadcast over leading axes).
template <class T, int In, int Out>
struct Operands {
  const T* in[In];
  T* out[Out];
  int64_t period[In];
};

template <int W, class T, int In, int Out, class F>
__global__ void __launch_bounds__(kThreads) map_kernel(int64_t vectors, Operands<T, In, Out> t, F f) {
  using A = Accumulator<T>;
  grid_stride(vectors, [&](int64_t i) {
    Vec<T, W> x[In], y[Out];
#pragma unroll
    for (int k = 0; k < In; ++k) {
      int64_t at = i * W;
      x[k] = load_vec<W>(t.in[k] + (at < t.period[k] ? at : at % t.period[k]));
    }
#pragma unroll
    for (int j = 0; j < W; ++j) {
      A a[In], b[Out];
#pragma unroll
      for (int k = 0; k < In; ++k) a[k] = widen(x[k].v[j]);
      f(a, b);
#pragma unroll
      for (int k = 0; k < Out; ++k) y[k].v[j] = device_convert<T>(b[k]);
    }
#pragma unroll
    for (int k = 0; k < Out; ++k) store_vec(t.out[k] + i * W, y[k]);
  });
}

// f(const A* inputs, A* outputs) on every element; the first output has all of them.
template <class T, int In, int Out, class F>
void map(const Tensor (&in)[In], const Tensor (&out)[Out], F f) {
  Operands<T, In, Out> t;
  bool wide = true;
  for (int k = 0; k < In; ++k) {
    t.in[k] = in[k].template data<T>(), t.period[k] = in[k].numel();
    wide = wide && aligned16<T>(t.period[k], {t.in[k]});
  }
  for (int k = 0; k < Out; ++k)
    t.out[k] = out[k].template data<T>(), wide = wide && aligned16<T>(out[k].numel(), {t.out[k]});
  int64_t n = out[0].numel(), vectors = wide ? n / kVecWidth<T> : n;
  auto kernel = wide ? map_kernel<kVecWidth<T>, T, In, Out, F> : map_kernel<1, T, In, Out, F>;
  launch(kernel, out[0].device(), grid_for(vectors, kThreads), kThreads, vectors, t, f);
}

template <class T, class F>
void value_of(const Tensor& x, const Tensor& y) {
  using A = Accumulator<T>;
  map<T>({x}, {y}, [] __device__(const A* a, A* b) { b[0] = F::value(a[0]); });
}
template <class T, class F>
void slope_of(const Tensor& x, const Tensor& dy, const Tensor& dx) {
  using A = Accumulator<T>;
  map<T>({x, dy}, {dx}, [] __device__(const A* a, A* b) { b[0] = a[1] * F::slope(a[0]); });
}

template <class T>
void unary(Unary kind, const Tensor& x, const Tensor& y) {
  if (kind == Unary::gelu_tanh) return value_of<T, GeluTanh>(x, y);
  if (kind == Unary::gelu_erf) return value_of<T, GeluErf>(x, y);
  if (kind == Unary::silu) return value_of<T, Silu>(x, y);
  value_of<T, Tanh>(x, y);
}
template <class T>
void unary_slope(Unary kind, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  if (kind == Unary::gelu_tanh) return slope_of<T, GeluTanh>(x, dy, dx);
  if (kind == Unary::gelu_erf) return slope_of<T, GeluErf>(x, dy, dx);
  if (kind == Unary::silu) return slope_of<T, Silu>(x, dy, dx);
  slope_of<T, Tanh>(x, dy, dx);
}

template <class T>
void add_cuda(double alpha, const Tensor& a, const Tensor& b, const Tensor& y) {
  using A = Accumulator<T>;
  auto s = A(alpha);
  map<T>({a, b}, {y}, [s] __device__(const A* x, A* out) { out[0] = s * x[0] + x[1]; });
}
template <class T>
void mul_cuda(const Tensor& a, const Tensor& b, const Tensor& y) {
  using A = Accumulator<T>;
  map<T>({a, b}, {y}, [] __device__(const A* x, A* out) { out[0] = x[0] * x[1]; });
}
template <class T>
void scale_cuda(double factor, const Tensor& x, const Tensor& y) {
  using A = Accumulator<T>;
  auto s = A(factor);
  map<T>({x}, {y}, [s] __device__(const A* a, A* b) { b[0] = s * a[0]; });
}
template <class T>
void swiglu_cuda(const Tensor& gate, const Tensor& up, const Tensor& y) {
  using A = Accumulator<T>;
  map<T>({gate, up}, {y}, [] __device__(const A* a, A* b) { b[0] = Silu::value(a[0]) * a[1]; });
}
template <class T>
void swiglu_backward_cuda(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate,
                          const Tensor& dup) {
  using A = Accumulator<T>;
  map<T>({gate, up, dy}, {dgate, dup}, [] __device__(const A* a, A* b) {
    b[0] = a[2] * a[1] * Silu::slope(a[0]);
    b[1] = a[2] * Silu::value(a[0]);
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
