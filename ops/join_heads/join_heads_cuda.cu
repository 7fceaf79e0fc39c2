// Copies: one thread an element of the result. A shared part's gradient is summed in f32 by the thread that owns it.
#include "core/cuda/launch.cuh"
#include "ops/join_heads/join_heads.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class T>
__global__ void forward_kernel(const T* a, const T* b, T* y, int64_t n, int64_t H, int64_t N, int64_t R, bool shared) {
  grid_stride(n, [&](int64_t at) {
    int64_t row = at / (N + R), i = at % (N + R);
    y[at] = i < N ? a[row * N + i] : b[(shared ? row / H : row) * R + i - N];
  });
}

template <class T>
__global__ void first_kernel(const T* dy, T* da, int64_t n, int64_t N, int64_t R) {
  grid_stride(n, [&](int64_t at) { da[at] = dy[at / N * (N + R) + at % N]; });
}

template <class T>
__global__ void second_kernel(const T* dy, T* db, int64_t n, int64_t heads, int64_t N, int64_t R) {
  using A = Accumulator<T>;
  grid_stride(n, [&](int64_t at) {
    A sum = 0;
    for (int64_t h = 0; h < heads; ++h) sum += widen(dy[(at / R * heads + h) * (N + R) + N + at % R]);
    db[at] = device_convert<T>(sum);
  });
}

template <class T>
void forward(const Tensor& a, const Tensor& b, const Tensor& y) {
  launch(forward_kernel<T>, y.device(), grid_for(y.numel(), kThreads), kThreads, a.data<T>(), b.data<T>(), y.data<T>(),
         y.numel(), y.size(1), a.size(2), b.size(2), b.size(1) != y.size(1));
}

template <class T>
void backward(const Tensor& dy, const Tensor& da, const Tensor& db) {
  int64_t D = dy.size(2), N = da ? da.size(2) : D - db.size(2);
  if (da && da.numel())
    launch(first_kernel<T>, dy.device(), grid_for(da.numel(), kThreads), kThreads, dy.data<T>(), da.data<T>(),
           da.numel(), N, D - N);
  if (db && db.numel())
    launch(second_kernel<T>, dy.device(), grid_for(db.numel(), kThreads), kThreads, dy.data<T>(), db.data<T>(),
           db.numel(), dy.size(1) / db.size(1), N, D - N);
}

REGISTER_KERNEL(join_heads_forward, cuda, f32, forward<float>)
REGISTER_KERNEL(join_heads_forward, cuda, bf16, forward<bf16>)
REGISTER_KERNEL(join_heads_forward, cuda, f16, forward<f16>)
REGISTER_KERNEL(join_heads_backward, cuda, f32, backward<float>)
REGISTER_KERNEL(join_heads_backward, cuda, bf16, backward<bf16>)
REGISTER_KERNEL(join_heads_backward, cuda, f16, backward<f16>)

}  // namespace
}  // namespace basis::ops
