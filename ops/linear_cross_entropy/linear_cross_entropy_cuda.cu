// One block a row, 16 bytes a thread where the row's address allows it: the logits are read from memory once, and the
// second pass over a row, which writes the gradient over it, finds it in the cache. Targets are not range-checked.
#include "core/cuda/launch.cuh"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace basis::ops {
namespace {

using namespace core;

template <int Threads, int W, class T>
__global__ void __launch_bounds__(Threads)
    chunk_kernel(T* logits, const int32_t* targets, int32_t ignore, bool gradient, Accumulator<T>* loss,
                 Accumulator<T>* hits, int64_t v) {
  using A = Accumulator<T>;
  T* z = logits + blockIdx.x * v;
  int32_t target = targets[blockIdx.x];
  bool ignored = target == ignore;
  A at = ignored ? A(0) : widen(z[target]);  // before the row is overwritten
  A top = -A(INFINITY), sum = 0, beaten = 0;
  for (int64_t j = int64_t(threadIdx.x) * W; j < v; j += Threads * W) {
    Vec<T, W> x = load_vec<W>(z + j);
    A m = top;
#pragma unroll
    for (int i = 0; i < W; ++i) {
      A value = widen(x.v[i]);
      m = Max::apply(value, m);
      if (value > at || (value == at && j + i < target)) beaten = 1;
    }
    if (m == -A(INFINITY)) continue;
    sum *= exp(top - m);
#pragma unroll
    for (int i = 0; i < W; ++i) sum += exp(widen(x.v[i]) - m);
    top = m;
  }
  A all = block_reduce<Max, Threads>(top);
  A total = block_reduce<Sum, Threads>(top == -A(INFINITY) ? A(0) : sum * exp(top - all));
  A log_sum = all + log(total);
  if (hits) beaten = block_reduce<Max, Threads>(beaten);
  if (threadIdx.x == 0) {
    loss[blockIdx.x] = ignored ? A(0) : log_sum - at;
    if (hits) hits[blockIdx.x] = ignored || beaten > 0 ? A(0) : A(1);
  }
  if (!gradient) return;
  for (int64_t j = int64_t(threadIdx.x) * W; j < v; j += Threads * W) {
    Vec<T, W> x = load_vec<W>(z + j);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      A p = ignored ? A(0) : exp(widen(x.v[i]) - log_sum) - (j + i == target ? A(1) : A(0));
      x.v[i] = device_convert<T>(p);
    }
    store_vec(z + j, x);
  }
}

template <int Threads, class T>
void run(const Tensor& logits, const Tensor& targets, int32_t ignore, bool gradient, const Tensor& loss,
         const Tensor& hits) {
  using A = Accumulator<T>;
  bool wide = aligned16<T>(logits.size(1), {logits.data<T>()});
  launch(wide ? chunk_kernel<Threads, kVecWidth<T>, T> : chunk_kernel<Threads, 1, T>, logits.device(), logits.size(0),
         Threads, logits.data<T>(), targets.data<int32_t>(), ignore, gradient, loss.data<A>(),
         hits ? hits.data<A>() : nullptr, logits.size(1));
}

template <class T>
void chunk(const Tensor& logits, const Tensor& targets, int32_t ignore, bool gradient, const Tensor& loss,
           const Tensor& hits) {
  int64_t v = logits.size(1);
  auto f = v <= 32 * kVecWidth<T> ? run<32, T> : v <= 128 * kVecWidth<T> ? run<128, T> : run<512, T>;
  f(logits, targets, ignore, gradient, loss, hits);
}

template <class From, class To>
__global__ void scale_kernel(const From* x, Accumulator<From> factor, const Accumulator<From>* by, To* y, int64_t n) {
  Accumulator<From> scale = factor * *by;
  grid_stride(n, [&](int64_t i) { y[i] = device_convert<To>(scale * widen(x[i])); });
}

template <class T>
void scaled(const Tensor& x, double factor, const Tensor& by, const Tensor& y) {
  using A = Accumulator<T>;
  dispatch(y.dtype(), [&]<class To>(std::type_identity<To>) {
    if constexpr (std::is_same_v<To, T> ||
                  (std::is_same_v<T, float> && (std::is_same_v<To, bf16> || std::is_same_v<To, f16>)))
      launch(scale_kernel<T, To>, y.device(), grid_for(x.numel(), 256), 256, x.data<T>(), A(factor), by.data<A>(),
             y.data<To>(), x.numel());
    else
      throw Error(
          {.where = "scaled_by", .got = std::string(name_of(x.dtype())) + " to " + std::string(name_of(y.dtype()))});
  });
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
