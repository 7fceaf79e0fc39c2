// One block a row. Memory-bound: the row is read once and its gradient written over it once, 4 bytes a logit in 16
// bits; in between it lies in shared memory where it fits (two blocks of 50,304 16-bit logits on a multiprocessor),
// else the later passes hope for the cache. 16-bit logits use the hardware's exponential: its error is far below their
// rounding. Targets are not range-checked.
#include "core/cuda/launch.cuh"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr size_t kShared = 224 * 1024;  // bytes a block may have on Hopper, less what reductions take

template <class T, class A>
__device__ __forceinline__ A exp_of(A x) {
  if constexpr (sizeof(T) == 2)
    return __expf(x);
  else
    return exp(x);
}

// `staged`: the row lies in shared memory between its passes.
template <int Threads, int W, bool Staged, class T>
__global__ void __launch_bounds__(Threads)
    chunk_kernel(T* logits, const int32_t* targets, int32_t ignore, bool gradient, Accumulator<T>* loss,
                 Accumulator<T>* hits, int64_t v, int64_t stride) {
  using A = Accumulator<T>;
  extern __shared__ double memory[];
  T *row = logits + blockIdx.x * stride, *z = Staged ? reinterpret_cast<T*>(memory) : row;
  int32_t target = targets[blockIdx.x];
  bool ignored = target == ignore;
  A at = ignored ? A(0) : widen(row[target]);  // before the row is overwritten
  A top = -A(INFINITY), beaten = 0;
  int64_t vectors = v / W;
  auto look = [&](int64_t j, T x) {
    A value = widen(x);
    top = Max::apply(value, top);
    if (value > at || (value == at && j < target)) beaten = 1;
  };
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < vectors; i += Threads) {
    Vec<T, W> x = load_vec<W>(row + i * W);
    if constexpr (Staged) store_vec(z + i * W, x);
#pragma unroll
    for (int k = 0; k < W; ++k) look(i * W + k, x.v[k]);
  }
  for (int64_t j = vectors * W + threadIdx.x; j < v; j += Threads) {
    T x = row[j];
    if constexpr (Staged) z[j] = x;
    look(j, x);
  }
  top = block_reduce<Max, Threads>(top);  // a thread reads back only what it wrote itself
  A sum = 0;
  for (int64_t i = threadIdx.x; i < vectors; i += Threads) {
    Vec<T, W> x = load_vec<W>(z + i * W);
#pragma unroll
    for (int k = 0; k < W; ++k) sum += exp_of<T>(widen(x.v[k]) - top);
  }
  for (int64_t j = vectors * W + threadIdx.x; j < v; j += Threads) sum += exp_of<T>(widen(z[j]) - top);
  if (top == -A(INFINITY)) sum = 0;
  A log_sum = top + log(block_reduce<Sum, Threads>(sum));
  if (hits) beaten = block_reduce<Max, Threads>(beaten);
  if (threadIdx.x == 0) {
    loss[blockIdx.x] = ignored ? A(0) : log_sum - at;
    if (hits) hits[blockIdx.x] = ignored || beaten > 0 ? A(0) : A(1);
  }
  if (!gradient) return;
  auto slope = [&](int64_t j, T x) {
    A p = ignored ? A(0) : exp_of<T>(widen(x) - log_sum) - (j == target ? A(1) : A(0));
    return device_convert<T>(p);
  };
  for (int64_t i = threadIdx.x; i < vectors; i += Threads) {
    Vec<T, W> x = load_vec<W>(z + i * W);
#pragma unroll
    for (int k = 0; k < W; ++k) x.v[k] = slope(i * W + k, x.v[k]);
    store_vec(row + i * W, x);
  }
  for (int64_t j = vectors * W + threadIdx.x; j < v; j += Threads) row[j] = slope(j, z[j]);
  for (int64_t j = v + threadIdx.x; j < stride; j += Threads) row[j] = device_convert<T>(0.0f);
}

template <int Threads, bool Staged, class T>
void run(const Tensor& logits, const Tensor& targets, int32_t ignore, bool gradient, const Tensor& loss,
         const Tensor& hits) {
  using A = Accumulator<T>;
  int64_t v = logits.size(1), stride = logits.stride(0);
  bool wide = aligned16<T>(stride, {logits.data<T>()});
  auto kernel = wide ? chunk_kernel<Threads, kVecWidth<T>, Staged, T> : chunk_kernel<Threads, 1, Staged, T>;
  launch_shared(kernel, logits.device(), dim3(unsigned(logits.size(0))), Threads, Staged ? size_t(v) * sizeof(T) : 0,
                logits.data<T>(), targets.data<int32_t>(), ignore, gradient, loss.data<A>(),
                hits ? hits.data<A>() : nullptr, v, stride);
}

template <class T>
void chunk(const Tensor& logits, const Tensor& targets, int32_t ignore, bool gradient, const Tensor& loss,
           const Tensor& hits) {
  int64_t v = logits.size(1);
  bool staged = gradient && v > 4096 && size_t(v) * sizeof(T) <= kShared;
  auto f = staged                    ? run<512, true, T>
           : v <= 32 * kVecWidth<T>  ? run<32, false, T>
           : v <= 128 * kVecWidth<T> ? run<128, false, T>
                                     : run<512, false, T>;
  f(logits, targets, ignore, gradient, loss, hits);
}

template <int W, class T>
__global__ void scale_kernel(const T* x, Accumulator<T> factor, const Accumulator<T>* by, T* y, int64_t vectors) {
  Accumulator<T> scale = factor * *by;
  grid_stride(vectors, [&](int64_t i) {
    Vec<T, W> v = load_vec<W>(x + i * W);
#pragma unroll
    for (int k = 0; k < W; ++k) v.v[k] = device_convert<T>(scale * widen(v.v[k]));
    store_vec(y + i * W, v);
  });
}

template <class T>
void scaled(const Tensor& x, double factor, const Tensor& by, const Tensor& y) {
  using A = Accumulator<T>;
  bool wide = aligned16<T>(x.numel(), {x.data<T>(), y.data<T>()});
  int64_t vectors = wide ? x.numel() / kVecWidth<T> : x.numel();
  launch(wide ? scale_kernel<kVecWidth<T>, T> : scale_kernel<1, T>, y.device(), grid_for(vectors, 256), 256,
         x.data<T>(), A(factor), by.data<A>(), y.data<T>(), vectors);
}

template <class T>
bool add_kernels() {
  return cross_entropy_chunk.set(DeviceType::cuda, dtype_of<T>(), chunk<T>) &&
         scaled_by.set(DeviceType::cuda, dtype_of<T>(), scaled<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
