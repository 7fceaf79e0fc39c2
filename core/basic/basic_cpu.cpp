#include <cstring>

#include "core/basic/basic.h"
#include "core/parallel.h"

namespace basis::core {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a thread should have at least

template <class T>
void fill_cpu(const Tensor& t, double value) {
  T* p = t.data<T>();
  T v = convert<T>(value);
  if (t.is_contiguous())
    return parallel_for(t.numel(), kGrain, [&](int64_t a, int64_t b) { std::fill(p + a, p + b, v); });
  copy_strided(Tensor::full(t.shape(), value, t.dtype()), t);
}

// Walks the rows (all axes but the last) of two tensors of one shape and copies each with its last-axis stride.
template <class From, class To>
void copy_rows(const Tensor& src, const Tensor& dst) {
  const From* s = src.data<From>();
  To* d = dst.data<To>();
  int dim = src.dim();
  int64_t inner = src.shape().back(), rows = inner ? src.numel() / inner : 0;
  int64_t ss = dim ? src.stride(-1) : 1, ds = dim ? dst.stride(-1) : 1;
  parallel_for(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, inner)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t so = 0, dof = 0, rest = row;
      for (int a = dim - 2; a >= 0; --a) {
        int64_t i = rest % src.size(a);
        rest /= src.size(a);
        so += i * src.stride(a), dof += i * dst.stride(a);
      }
      for (int64_t i = 0; i < inner; ++i) d[dof + i * ds] = convert<To>(s[so + i * ss]);
    }
  });
}

template <class From>
void copy_cpu(const Tensor& src, const Tensor& dst) {
  dispatch(dst.dtype(), [&]<class To>(std::type_identity<To>) { copy_rows<From, To>(src, dst); });
}

template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
void axpy_cpu(double alpha, const Tensor& x, const Tensor& y) {
  using A = Accumulate<T>;
  T* out = y.data<T>();
  A a = A(alpha);
  dispatch(x.dtype(), [&]<class X>(std::type_identity<X>) {
    const X* in = x.data<X>();
    parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = convert<T>(A(convert<A>(out[i]) + a * convert<A>(in[i])));
    });
  });
}

template <class T>
void scale_cpu(const Tensor& x, double alpha) {
  using A = Accumulate<T>;
  T* p = x.data<T>();
  parallel_for(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) p[i] = convert<T>(A(convert<A>(p[i]) * A(alpha)));
  });
}

template <class... T>
bool register_all(std::type_identity<T>...) {
  return ((fill_kernel.set(DeviceType::cpu, dtype_of<T>(), fill_cpu<T>) &&
           copy_strided_kernel.set(DeviceType::cpu, dtype_of<T>(), copy_cpu<T>)) &&
          ...);
}
template <class... T>
bool register_float(std::type_identity<T>...) {
  return ((axpy_kernel.set(DeviceType::cpu, dtype_of<T>(), axpy_cpu<T>) &&
           scale_kernel.set(DeviceType::cpu, dtype_of<T>(), scale_cpu<T>)) &&
          ...);
}
template <class T>
constexpr std::type_identity<T> type;

[[maybe_unused]] const bool registered = register_all(type<double>, type<float>, type<bf16>, type<f16>, type<int64_t>,
                                                      type<int32_t>, type<uint16_t>, type<uint8_t>) &&
                                         register_float(type<double>, type<float>, type<bf16>, type<f16>);

}  // namespace
}  // namespace basis::core
