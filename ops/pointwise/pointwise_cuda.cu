#include "ops/common/map_cuda.cuh"
#include "ops/pointwise/pointwise.h"

namespace basis::ops {
namespace {

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
  if (kind == Unary::gelu_tanh) return value_of<T, GeluTanhBy<MathOf<T>>>(x, y);
  if (kind == Unary::gelu_erf) return value_of<T, GeluErf>(x, y);
  if (kind == Unary::silu) return value_of<T, SiluBy<MathOf<T>>>(x, y);
  value_of<T, Tanh>(x, y);
}
template <class T>
void unary_slope(Unary kind, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  if (kind == Unary::gelu_tanh) return slope_of<T, GeluTanhBy<MathOf<T>>>(x, dy, dx);
  if (kind == Unary::gelu_erf) return slope_of<T, GeluErf>(x, dy, dx);
  if (kind == Unary::silu) return slope_of<T, SiluBy<MathOf<T>>>(x, dy, dx);
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
  map<T>({gate, up}, {y}, [] __device__(const A* a, A* b) { b[0] = SiluBy<MathOf<T>>::value(a[0]) * a[1]; });
}
template <class T>
void swiglu_backward_cuda(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate,
                          const Tensor& dup) {
  using A = Accumulator<T>;
  map<T>({gate, up, dy}, {dgate, dup}, [] __device__(const A* a, A* b) {
    b[0] = a[2] * a[1] * SiluBy<MathOf<T>>::slope(a[0]);
    b[1] = a[2] * SiluBy<MathOf<T>>::value(a[0]);
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
