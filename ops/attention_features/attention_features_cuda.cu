// elu: a thread an element. taylor and random: a block a row, its scaled channels in shared memory.
#include "core/cuda/launch.cuh"
#include "ops/attention_features/attention_features.h"
#include "ops/common/math.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 128;

template <class T>
__global__ void elu_kernel(const T* x, Accumulator<T> scale, int64_t n, T* y) {
  grid_stride(n, [&](int64_t at) {
    Accumulator<T> value = scale * widen(x[at]);
    y[at] = device_convert<T>(value > 0 ? value + 1 : fast_exp(value));
  });
}

// The slope of the exponential is taken from x, not from the rounded y.
template <class T>
__global__ void elu_backward_kernel(const T* x, const T* dy, Accumulator<T> scale, int64_t n, T* dx) {
  grid_stride(n, [&](int64_t at) {
    Accumulator<T> value = scale * widen(x[at]), slope = value > 0 ? Accumulator<T>(1) : fast_exp(value);
    dx[at] = device_convert<T>(scale * slope * widen(dy[at]));
  });
}

// The place of the pair (i, j), i <= j, among a row's features.
__device__ __forceinline__ int64_t pair_at(int64_t i, int64_t j, int64_t D) {
  return 1 + D + i * D - i * (i - 1) / 2 + j - i;
}

template <class T>
__global__ void taylor_kernel(const T* x, Accumulator<T> scale, int64_t D, int64_t r, T* y) {
  using A = Accumulator<T>;
  extern __shared__ __align__(16) char memory[];
  A* row = reinterpret_cast<A*>(memory);
  x += blockIdx.x * D, y += blockIdx.x * r;
  for (int64_t d = threadIdx.x; d < D; d += kThreads) row[d] = scale * widen(x[d]);
  __syncthreads();
  if (threadIdx.x == 0) y[0] = device_convert<T>(A(1));
  for (int64_t d = threadIdx.x; d < D; d += kThreads) y[1 + d] = device_convert<T>(row[d]);
  if (r == 1 + D) return;
  for (int64_t e = threadIdx.x; e < D * D; e += kThreads) {
    int64_t i = e / D, j = e % D;
    if (j >= i) y[pair_at(i, j, D)] = device_convert<T>(row[i] * row[j] * (i == j ? A(0.7071067811865476) : A(1)));
  }
}

template <class T>
__global__ void taylor_backward_kernel(const T* x, const T* dy, Accumulator<T> scale, int64_t D, int64_t r, T* dx) {
  using A = Accumulator<T>;
  extern __shared__ __align__(16) char memory[];
  A* row = reinterpret_cast<A*>(memory);
  x += blockIdx.x * D, dy += blockIdx.x * r, dx += blockIdx.x * D;
  for (int64_t d = threadIdx.x; d < D; d += kThreads) row[d] = scale * widen(x[d]);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < D; i += kThreads) {
    A sum = widen(dy[1 + i]);
    for (int64_t j = 0; j < D && r > 1 + D; ++j)
      sum += widen(dy[pair_at(min(i, j), max(i, j), D)]) * row[j] * (i == j ? A(1.4142135623730951) : A(1));
    dx[i] = device_convert<T>(scale * sum);
  }
}

template <class T>
__global__ void random_kernel(const T* x, const float* w, Accumulator<T> scale, int64_t D, int64_t r, T* y) {
  using A = Accumulator<T>;
  extern __shared__ __align__(16) char memory[];
  A *row = reinterpret_cast<A*>(memory), half = 0;
  x += blockIdx.x * D, y += blockIdx.x * r;
  for (int64_t d = threadIdx.x; d < D; d += kThreads) row[d] = scale * widen(x[d]), half += row[d] * row[d];
  half = block_reduce<Sum, kThreads>(half) / 2;  // also shows the row to the block
  A factor = rsqrt(A(r));
  for (int64_t f = threadIdx.x; f < r; f += kThreads) {
    A sum = -half;
    for (int64_t d = 0; d < D; ++d) sum += row[d] * A(w[d * r + f]);
    y[f] = device_convert<T>(factor * exp(sum));
  }
}

template <class T>
__global__ void random_backward_kernel(const T* x, const T* y, const T* dy, const float* w, Accumulator<T> scale,
                                       int64_t D, int64_t r, T* dx) {
  using A = Accumulator<T>;
  extern __shared__ __align__(16) char memory[];
  A *weight = reinterpret_cast<A*>(memory), all = 0;  // dy_f y_f
  x += blockIdx.x * D, y += blockIdx.x * r, dy += blockIdx.x * r, dx += blockIdx.x * D;
  for (int64_t f = threadIdx.x; f < r; f += kThreads) weight[f] = widen(dy[f]) * widen(y[f]), all += weight[f];
  all = block_reduce<Sum, kThreads>(all);  // also shows the weights to the block
  for (int64_t d = threadIdx.x / 32; d < D; d += kThreads / 32) {
    A sum = 0;
    for (int64_t f = threadIdx.x % 32; f < r; f += 32) sum += weight[f] * A(w[d * r + f]);
    sum = warp_reduce<Sum>(sum);
    if (threadIdx.x % 32 == 0) dx[d] = device_convert<T>(scale * (sum - all * scale * widen(x[d])));
  }
}

template <class T>
void forward(const Tensor& x, const FeatureOptions& o, const Tensor& y) {
  int64_t n = x.size(0), D = x.size(1), r = y.size(1);
  auto scale = Accumulator<T>(o.scale);
  dim3 grid{unsigned(n)};
  size_t shared = size_t(D) * sizeof(Accumulator<T>);
  if (o.kind == Features::elu)
    launch(elu_kernel<T>, x.device(), grid_for(x.numel(), kThreads), kThreads, x.data<T>(), scale, x.numel(),
           y.data<T>());
  else if (o.kind == Features::taylor)
    launch_shared(taylor_kernel<T>, x.device(), grid, kThreads, shared, x.data<T>(), scale, D, r, y.data<T>());
  else
    launch_shared(random_kernel<T>, x.device(), grid, kThreads, shared, x.data<T>(), o.directions.data<float>(), scale,
                  D, r, y.data<T>());
}

template <class T>
void backward(const Tensor& x, const Tensor& y, const Tensor& dy, const FeatureOptions& o, const Tensor& dx) {
  int64_t n = x.size(0), D = x.size(1), r = dy.size(1);
  auto scale = Accumulator<T>(o.scale);
  dim3 grid{unsigned(n)};
  if (o.kind == Features::elu)
    launch(elu_backward_kernel<T>, x.device(), grid_for(x.numel(), kThreads), kThreads, x.data<T>(), dy.data<T>(),
           scale, x.numel(), dx.data<T>());
  else if (o.kind == Features::taylor)
    launch_shared(taylor_backward_kernel<T>, x.device(), grid, kThreads, size_t(D) * sizeof(Accumulator<T>),
                  x.data<T>(), dy.data<T>(), scale, D, r, dx.data<T>());
  else
    launch_shared(random_backward_kernel<T>, x.device(), grid, kThreads, size_t(r) * sizeof(Accumulator<T>),
                  x.data<T>(), y.data<T>(), dy.data<T>(), o.directions.data<float>(), scale, D, r, dx.data<T>());
}

template <class T>
bool add_kernels() {
  return attention_features_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         attention_features_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
