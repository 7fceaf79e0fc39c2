// One block per row, 16 bytes a thread where a row's address allows it. Memory-bound: forward reads the logits once
// (running maximum and sum per thread), backward reads them once and writes the gradient, in place when the caller
// passes the logits. Targets are not range-checked here: the data code does that on the host.
#include "core/cuda/launch.cuh"
#include "ops/cross_entropy/cross_entropy.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 512;

template <int W, class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(const T* logits, const int32_t* targets, int32_t ignore,
                                                           Accumulator<T>* rows, Accumulator<T>* lse, int64_t v) {
  using A = Accumulator<T>;
  const T* z = logits + blockIdx.x * v;
  A top = -A(INFINITY), sum = 0;
  for (int64_t j = int64_t(threadIdx.x) * W; j < v; j += kThreads * W) {
    Vec<T, W> x = load_vec<W>(z + j);
    A m = top;
#pragma unroll
    for (int i = 0; i < W; ++i) m = Max::apply(widen(x.v[i]), m);
    if (m == -A(INFINITY)) continue;
    sum *= exp(top - m);
#pragma unroll
    for (int i = 0; i < W; ++i) sum += exp(widen(x.v[i]) - m);
    top = m;
  }
  A all = block_reduce<Max, kThreads>(top);
  A total = block_reduce<Sum, kThreads>(top == -A(INFINITY) ? A(0) : sum * exp(top - all));
  if (threadIdx.x == 0) {
    A log_sum = all + log(total);
    int32_t target = targets[blockIdx.x];
    lse[blockIdx.x] = log_sum;
    rows[blockIdx.x] = target == ignore ? A(0) : log_sum - widen(z[target]);
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) sum_kernel(const A* rows, int64_t n, double scale, A* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += double(rows[i]);
  sum = block_reduce<Sum, kThreads>(sum);
  if (threadIdx.x == 0) *out = A(scale * sum);
}

template <int W, class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* logits, const int32_t* targets, const Accumulator<T>* lse, const Accumulator<T>* dloss,
                    int32_t ignore, double factor, T* dlogits, int64_t v) {
  using A = Accumulator<T>;
  const T* z = logits + blockIdx.x * v;
  T* dz = dlogits + blockIdx.x * v;
  int32_t target = targets[blockIdx.x];
  A log_sum = lse[blockIdx.x], scale = A(factor) * *dloss;
  for (int64_t j = int64_t(threadIdx.x) * W; j < v; j += kThreads * W) {
    Vec<T, W> x = load_vec<W>(z + j);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      A p = target == ignore ? A(0) : exp(widen(x.v[i]) - log_sum) - (j + i == target ? A(1) : A(0));
      x.v[i] = device_convert<T>(scale * p);
    }
    store_vec(dz + j, x);
  }
}

template <class T>
void forward(const Tensor& logits, const Tensor& targets, int32_t ignore, const Tensor& rows, const Tensor& lse) {
  using A = Accumulator<T>;
  bool wide = aligned16<T>(logits.size(1), {logits.data<T>()});
  launch(wide ? forward_kernel<kVecWidth<T>, T> : forward_kernel<1, T>, logits.device(), logits.size(0), kThreads,
         logits.data<T>(), targets.data<int32_t>(), ignore, rows.data<A>(), lse.data<A>(), logits.size(1));
}
template <class A>
void sum_rows(const Tensor& rows, double scale, const Tensor& out) {
  launch(sum_kernel<A>, out.device(), 1, kThreads, rows.data<A>(), rows.numel(), scale, out.data<A>());
}
template <class T>
void backward(const Tensor& logits, const Tensor& targets, const Tensor& lse, const Tensor& dloss,
              const CrossEntropyOptions& o, const Tensor& dlogits) {
  using A = Accumulator<T>;
  bool wide = aligned16<T>(logits.size(1), {logits.data<T>(), dlogits.data<T>()});
  launch(wide ? backward_kernel<kVecWidth<T>, T> : backward_kernel<1, T>, logits.device(), logits.size(0), kThreads,
         logits.data<T>(), targets.data<int32_t>(), lse.data<A>(), dloss.data<A>(), o.ignore_index, o.scale,
         dlogits.data<T>(), logits.size(1));
}

template <class T>
bool add_kernels() {
  return cross_entropy_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         cross_entropy_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();
REGISTER_KERNEL(sum_scaled, cuda, f32, sum_rows<float>)
REGISTER_KERNEL(sum_scaled, cuda, f64, sum_rows<double>)

}  // namespace
}  // namespace basis::ops
