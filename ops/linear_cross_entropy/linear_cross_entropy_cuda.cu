// One block a row. Memory-bound: the row is read once and its gradient written over it once, 4 bytes a logit in 16
// bits; in between it lies in shared memory where it fits (two blocks of 50,304 16-bit logits on a multiprocessor),
// else the later passes hope for the cache. What else a logit costs counts too: the largest one and the sum are found
// in one pass, and while a block waits and computes, the row of a later block is already on its way to the L2 cache.
// 16-bit logits use the hardware's exponential: its error is far below their rounding. Targets are not range-checked.
#include "core/cuda/launch.cuh"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr size_t kShared = 224 * 1024;  // bytes a block may have on Hopper, less what reductions take

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T, class A>
__device__ __forceinline__ A exp_of(A x) {
  if constexpr (sizeof(T) == 2)
    return __expf(x);
  else
    return exp(x);
}

// exp(x - shift), the shift in the form that shift_of gives it.
template <class T, class A>
__device__ __forceinline__ A shift_of(A x) {
  return sizeof(T) == 2 ? x * A(1.4426950408889634) : x;
}
template <class T, class A>
__device__ __forceinline__ A exp_minus(A x, A shift) {
  if constexpr (sizeof(T) == 2)
    return exp2_approximate(fmaf(x, 1.4426950408889634f, -shift));
  else
    return exp(x - shift);
}

// The row on its way to the L2 cache, a piece a thread.
template <class T>
__device__ __forceinline__ void prefetch(const T* row, int64_t v, int threads) {
  constexpr int64_t kLine = 128 / int(sizeof(T));
  for (int64_t j = threadIdx.x * kLine; j < v; j += threads * kLine)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(row + j));
}

// The gradient of a row that fits in shared memory.
template <int Threads, int W, class T>
__global__ void __launch_bounds__(Threads, 1024 / Threads)
    staged_kernel(T* logits, const int32_t* targets, int32_t ignore, Accumulator<T>* loss, int64_t v, int64_t stride,
                  int64_t ahead) {
  using A = Accumulator<T>;
  constexpr int kAtOnce = 4;
  extern __shared__ double memory[];
  T *row = logits + blockIdx.x * stride, *z = reinterpret_cast<T*>(memory);
  int vectors = int(v / W), rest = vectors * W;
  if (blockIdx.x + ahead < gridDim.x) prefetch(row + ahead * stride, v, Threads);
  A top = -A(INFINITY), sum = 0;  // of exp(logit - top), of this thread's logits
  auto add = [&](const T* x, int count) {
    A m = top;
    for (int k = 0; k < count; ++k) m = fmax(m, widen(x[k]));  // passes over NaN, which shows in the sum
    if (m == -A(INFINITY)) {
      for (int k = 0; k < count; ++k)
        if (isnan(widen(x[k]))) sum = widen(x[k]);
      return;
    }
    A shift = shift_of<T>(m);
    sum *= exp_minus<T>(top, shift);
    for (int k = 0; k < count; ++k) sum += exp_minus<T>(widen(x[k]), shift);
    top = m;
  };
  for (int first = threadIdx.x; first < vectors; first += Threads * kAtOnce) {
    Vec<T, W> x[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (first + k * Threads < vectors) x[k] = load_vec<W>(row + int64_t(first + k * Threads) * W);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (first + k * Threads < vectors) {
        store_vec(z + (first + k * Threads) * W, x[k]);
        add(x[k].v, W);
      }
  }
  for (int j = rest + int(threadIdx.x); j < v; j += Threads) add(&(z[j] = row[j]), 1);
  A all = block_reduce<Max, Threads>(top);
  if (sum != 0) sum *= exp_minus<T>(top, shift_of<T>(all));
  A log_sum = all + log(block_reduce<Sum, Threads>(sum));
  int target = targets[blockIdx.x];
  bool ignored = target == ignore;
  if (threadIdx.x == 0) loss[blockIdx.x] = ignored ? A(0) : log_sum - widen(z[target]);
  A shift = shift_of<T>(log_sum), whole = ignored ? A(0) : A(1);
  int special = target / W;
  for (int i = threadIdx.x; i < vectors; i += Threads) {
    Vec<T, W> x = load_vec<W>(z + i * W);  // a thread reads back only what it wrote itself
#pragma unroll
    for (int k = 0; k < W; ++k) {
      A p = ignored ? A(0) : exp_minus<T>(widen(x.v[k]), shift);
      if (i == special && k == target % W) p -= whole;
      x.v[k] = device_convert<T>(p);
    }
    store_vec(row + int64_t(i) * W, x);
  }
  for (int j = rest + int(threadIdx.x); j < v; j += Threads) {
    A p = ignored ? A(0) : exp_minus<T>(widen(z[j]), shift);
    row[j] = device_convert<T>(j == target ? p - whole : p);
  }
  for (int64_t j = v + threadIdx.x; j < stride; j += Threads) row[j] = device_convert<T>(0.0f);
}

// `hits`, or a row that does not fit.
template <int Threads, int W, class T>
__global__ void __launch_bounds__(Threads)
    chunk_kernel(T* logits, const int32_t* targets, int32_t ignore, bool gradient, Accumulator<T>* loss,
                 Accumulator<T>* hits, int64_t v, int64_t stride) {
  using A = Accumulator<T>;
  T* row = logits + blockIdx.x * stride;
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
#pragma unroll
    for (int k = 0; k < W; ++k) look(i * W + k, x.v[k]);
  }
  for (int64_t j = vectors * W + threadIdx.x; j < v; j += Threads) look(j, row[j]);
  top = block_reduce<Max, Threads>(top);  // a thread reads back only what it wrote itself
  A sum = 0;
  for (int64_t i = threadIdx.x; i < vectors; i += Threads) {
    Vec<T, W> x = load_vec<W>(row + i * W);
#pragma unroll
    for (int k = 0; k < W; ++k) sum += exp_of<T>(widen(x.v[k]) - top);
  }
  for (int64_t j = vectors * W + threadIdx.x; j < v; j += Threads) sum += exp_of<T>(widen(row[j]) - top);
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
    Vec<T, W> x = load_vec<W>(row + i * W);
#pragma unroll
    for (int k = 0; k < W; ++k) x.v[k] = slope(i * W + k, x.v[k]);
    store_vec(row + i * W, x);
  }
  for (int64_t j = vectors * W + threadIdx.x; j < v; j += Threads) row[j] = slope(j, row[j]);
  for (int64_t j = v + threadIdx.x; j < stride; j += Threads) row[j] = device_convert<T>(0.0f);
}

template <int Threads, class T>
void run(const Tensor& logits, const Tensor& targets, int32_t ignore, bool gradient, const Tensor& loss,
         const Tensor& hits) {
  using A = Accumulator<T>;
  int64_t v = logits.size(1), stride = logits.stride(0);
  bool wide = aligned16<T>(stride, {logits.data<T>()});
  auto kernel = wide ? chunk_kernel<Threads, kVecWidth<T>, T> : chunk_kernel<Threads, 1, T>;
  launch(kernel, logits.device(), logits.size(0), Threads, logits.data<T>(), targets.data<int32_t>(), ignore, gradient,
         loss.data<A>(), hits ? hits.data<A>() : nullptr, v, stride);
}

template <class T>
void run_staged(const Tensor& logits, const Tensor& targets, int32_t ignore, const Tensor& loss) {
  using A = Accumulator<T>;
  constexpr int kThreads = 512;
  int64_t v = logits.size(1), stride = logits.stride(0);
  size_t bytes = size_t(v) * sizeof(T);
  bool wide = aligned16<T>(stride, {logits.data<T>()});
  auto kernel = wide ? staged_kernel<kThreads, kVecWidth<T>, T> : staged_kernel<kThreads, 1, T>;
  int64_t resident = 132 * (bytes > kShared / 2 ? 1 : 2);
  launch_shared(kernel, logits.device(), dim3(unsigned(logits.size(0))), kThreads, bytes, logits.data<T>(),
                targets.data<int32_t>(), ignore, loss.data<A>(), v, stride, resident);
}

template <class T>
void chunk(const Tensor& logits, const Tensor& targets, int32_t ignore, bool gradient, const Tensor& loss,
           const Tensor& hits) {
  int64_t v = logits.size(1);
  if (gradient && !hits && v > 4096 && size_t(v) * sizeof(T) <= kShared)
    return run_staged<T>(logits, targets, ignore, loss);
  auto f = v <= 32 * kVecWidth<T> ? run<32, T> : v <= 128 * kVecWidth<T> ? run<128, T> : run<512, T>;
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
