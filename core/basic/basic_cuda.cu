#include "core/basic/basic.h"
#include "core/cuda/launch.cuh"

namespace basis::core {
namespace {

constexpr int kThreads = 256;

// Extents and strides in elements, passed by value.
struct Strided {
  int dim;
  int64_t size[Shape::kMaxDim], src[Shape::kMaxDim], dst[Shape::kMaxDim];
};

template <class From, class To>
__global__ void copy_kernel(Strided s, const From* src, To* dst, int64_t n) {
  grid_stride(n, [&](int64_t i) {
    int64_t rest = i, a = 0, b = 0;
#pragma unroll
    for (int axis = Shape::kMaxDim - 1; axis >= 0; --axis) {
      if (axis >= s.dim) continue;
      int64_t at = rest % s.size[axis];
      rest /= s.size[axis];
      a += at * s.src[axis], b += at * s.dst[axis];
    }
    dst[b] = device_convert<To>(src[a]);
  });
}

// Contiguous conversion, W elements at a time.
template <class From, class To, int W>
__global__ void convert_kernel(const From* src, To* dst, int64_t n) {
  grid_stride(n / W, [&](int64_t i) {
    Vec<From, W> x = load_vec<W>(src + i * W);
    Vec<To, W> y;
#pragma unroll
    for (int j = 0; j < W; ++j) y.v[j] = device_convert<To>(x.v[j]);
    store_vec<W>(dst + i * W, y);
  });
  if (blockIdx.x == 0 && threadIdx.x < n % W)
    dst[n / W * W + threadIdx.x] = device_convert<To>(src[n / W * W + threadIdx.x]);
}

// Adjacent axes that both tensors walk without a gap are one axis: less index arithmetic.
Strided merge_axes(const Tensor& src, const Tensor& dst) {
  Strided s{};
  for (int a = 0; a < src.dim(); ++a) {
    if (src.size(a) == 1) continue;
    int last = s.dim - 1;
    if (s.dim && s.src[last] == src.size(a) * src.stride(a) && s.dst[last] == src.size(a) * dst.stride(a)) {
      s.size[last] *= src.size(a), s.src[last] = src.stride(a), s.dst[last] = dst.stride(a);
    } else {
      s.size[s.dim] = src.size(a), s.src[s.dim] = src.stride(a), s.dst[s.dim] = dst.stride(a);
      ++s.dim;
    }
  }
  return s;
}

template <class From>
void copy_cuda(const Tensor& src, const Tensor& dst) {
  dispatch(dst.dtype(), [&]<class To>(std::type_identity<To>) {
    const From* a = src.data<From>();
    To* b = dst.data<To>();
    int64_t n = src.numel();
    if (src.is_contiguous() && dst.is_contiguous()) {
      constexpr int w = 16 / int(std::max(sizeof(From), sizeof(To)));
      bool aligned = reinterpret_cast<uintptr_t>(a) % 16 == 0 && reinterpret_cast<uintptr_t>(b) % 16 == 0;
      if (aligned)
        return launch(convert_kernel<From, To, w>, dst.device(), grid_for(ceil_div(n, w), kThreads), kThreads, a, b, n);
      return launch(convert_kernel<From, To, 1>, dst.device(), grid_for(n, kThreads), kThreads, a, b, n);
    }
    launch(copy_kernel<From, To>, dst.device(), grid_for(n, kThreads), kThreads, merge_axes(src, dst), a, b, n);
  });
}

template <class T>
__global__ void fill_elements(Strided s, T* p, T value, int64_t n) {
  grid_stride(n, [&](int64_t i) {
    int64_t rest = i, at = 0;
#pragma unroll
    for (int axis = Shape::kMaxDim - 1; axis >= 0; --axis) {
      if (axis >= s.dim) continue;
      at += rest % s.size[axis] * s.dst[axis];
      rest /= s.size[axis];
    }
    p[at] = value;
  });
}

template <class T>
void fill_cuda(const Tensor& t, double value) {
  if (value == 0 && t.is_contiguous() && !std::signbit(value)) {
    CUDA_CHECK(cudaMemsetAsync(t.raw(), 0, size_t(t.bytes()), cuda_stream(t.device())));
    return;
  }
  launch(fill_elements<T>, t.device(), grid_for(t.numel(), kThreads), kThreads, merge_axes(t, t), t.data<T>(),
         convert<T>(value), t.numel());
}

template <class T, class X>
__global__ void axpy_elements(Accumulator<T> alpha, const X* x, T* y, int64_t n) {
  grid_stride(n,
              [&](int64_t i) { y[i] = device_convert<T>(widen(y[i]) + alpha * device_convert<Accumulator<T>>(x[i])); });
}

// x may have y's dtype or another float dtype; 16-byte accesses when they agree and are aligned.
template <class T, int W>
__global__ void axpy_vec(Accumulator<T> alpha, const T* x, T* y, int64_t n) {
  grid_stride(n / W, [&](int64_t i) {
    Vec<T, W> a = load_vec<W>(x + i * W), b = load_vec<W>(y + i * W);
#pragma unroll
    for (int j = 0; j < W; ++j) b.v[j] = device_convert<T>(widen(b.v[j]) + alpha * widen(a.v[j]));
    store_vec<W>(y + i * W, b);
  });
}

template <class T>
void axpy_cuda(double alpha, const Tensor& x, const Tensor& y) {
  using A = Accumulator<T>;
  if (!is_float(x.dtype()))
    throw Error({.where = "axpy", .expected = "a float tensor", .got = std::string(name_of(x.dtype()))});
  int64_t n = y.numel();
  auto typed = [&]<class X>(std::type_identity<X>) {
    if constexpr (std::is_same_v<X, T>)
      if (aligned16<T>(n, {x.data<T>(), y.data<T>()}))
        return launch(axpy_vec<T, kVecWidth<T>>, y.device(), grid_for(n / kVecWidth<T>, kThreads), kThreads, A(alpha),
                      x.data<T>(), y.data<T>(), n);
    launch(axpy_elements<T, X>, y.device(), grid_for(n, kThreads), kThreads, A(alpha), x.data<X>(), y.data<T>(), n);
  };
  if (x.dtype() == DType::f64) return typed(std::type_identity<double>{});
  if (x.dtype() == DType::f32) return typed(std::type_identity<float>{});
  if (x.dtype() == DType::bf16) return typed(std::type_identity<bf16>{});
  typed(std::type_identity<f16>{});
}

template <class T>
__global__ void scale_elements(T* x, Accumulator<T> alpha, int64_t n) {
  grid_stride(n, [&](int64_t i) { x[i] = device_convert<T>(widen(x[i]) * alpha); });
}

template <class T>
void scale_cuda(const Tensor& x, double alpha) {
  launch(scale_elements<T>, x.device(), grid_for(x.numel(), kThreads), kThreads, x.data<T>(), Accumulator<T>(alpha),
         x.numel());
}

template <class... T>
bool register_all(std::type_identity<T>...) {
  return ((fill_kernel.set(DeviceType::cuda, dtype_of<T>(), fill_cuda<T>) &&
           copy_strided_kernel.set(DeviceType::cuda, dtype_of<T>(), copy_cuda<T>)) &&
          ...);
}
template <class... T>
bool register_float(std::type_identity<T>...) {
  return ((axpy_kernel.set(DeviceType::cuda, dtype_of<T>(), axpy_cuda<T>) &&
           scale_kernel.set(DeviceType::cuda, dtype_of<T>(), scale_cuda<T>)) &&
          ...);
}
template <class T>
constexpr std::type_identity<T> type;

[[maybe_unused]] const bool registered = register_all(type<double>, type<float>, type<bf16>, type<f16>, type<int64_t>,
                                                      type<int32_t>, type<uint16_t>, type<uint8_t>) &&
                                         register_float(type<double>, type<float>, type<bf16>, type<f16>);

}  // namespace
}  // namespace basis::core
