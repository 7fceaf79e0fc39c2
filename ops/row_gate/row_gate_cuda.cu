// A warp per row.
#include "core/cuda/launch.cuh"
#include "core/cuda/reduce.cuh"
#include "ops/row_gate/row_gate.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256, kRows = kThreads / 32;

template <class A>
__device__ A gate(A score) {
  return A(2) / (A(1) + exp(-score));
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward_rows(int64_t rows, int64_t D, const T* x, const T* score, T* y) {
  for (int64_t r = blockIdx.x * int64_t(kRows) + threadIdx.x / 32; r < rows; r += int64_t(gridDim.x) * kRows) {
    auto g = gate(widen(score[r]));
    for (int64_t d = threadIdx.x % 32; d < D; d += 32) y[r * D + d] = device_convert<T>(g * widen(x[r * D + d]));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_rows(int64_t rows, int64_t D, const T* x, const T* score, const T* dy, T* dx, T* dscore) {
  using A = Accumulator<T>;
  for (int64_t r = blockIdx.x * int64_t(kRows) + threadIdx.x / 32; r < rows; r += int64_t(gridDim.x) * kRows) {
    A g = gate(widen(score[r])), dot = 0;
    for (int64_t d = threadIdx.x % 32; d < D; d += 32) {
      A u = widen(dy[r * D + d]);
      dot += u * widen(x[r * D + d]);
      dx[r * D + d] = device_convert<T>(g * u);
    }
    dot = warp_reduce<Sum>(dot);
    if (threadIdx.x % 32 == 0) dscore[r] = device_convert<T>(g * (A(1) - g / A(2)) * dot);
  }
}

int64_t blocks(int64_t rows) { return std::min<int64_t>(ceil_div(rows, int64_t(kRows)), 1 << 16); }

template <class T>
void forward(const Tensor& x, const Tensor& score, const Tensor& y) {
  int64_t rows = score.numel();
  launch(forward_rows<T>, x.device(), blocks(rows), kThreads, rows, x.numel() / rows, x.data<T>(), score.data<T>(),
         y.data<T>());
}
template <class T>
void backward(const Tensor& x, const Tensor& score, const Tensor& dy, const Tensor& dx, const Tensor& dscore) {
  int64_t rows = score.numel();
  launch(backward_rows<T>, x.device(), blocks(rows), kThreads, rows, x.numel() / rows, x.data<T>(), score.data<T>(),
         dy.data<T>(), dx.data<T>(), dscore.data<T>());
}

template <class T>
bool add_kernels() {
  return row_gate_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         row_gate_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
