// Copies: a thread an element of the result.
#include "core/cuda/launch.cuh"
#include "ops/shifted_groups/shifted_groups.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class T>
__global__ void split_kernel(const T* x, int64_t n, int64_t B, int64_t N, int64_t g, int64_t run, int64_t groups,
                             T* y) {
  grid_stride(n, [&](int64_t at) {
    int64_t c = at % run, i = at / run % g, e = at / run / g, group = e % groups, b = e / groups % B;
    int64_t half = e / groups / B, t = group_begin(half, group, g) + i;
    bool inside = i < group_size(half, group, g) && t < N;
    y[at] = inside ? x[((b * N + t) * 2 + half) * run + c] : device_convert<T>(0.0f);
  });
}

template <class T>
__global__ void join_kernel(const T* y, int64_t n, int64_t B, int64_t N, int64_t g, int64_t run, int64_t groups, T* x) {
  grid_stride(n, [&](int64_t at) {
    int64_t c = at % run, half = at / run % 2, t = at / run / 2 % N, b = at / run / 2 / N;
    int64_t group = (t + half * (g / 2)) / g, i = t - group_begin(half, group, g);
    x[at] = y[(((half * B + b) * groups + group) * g + i) * run + c];
  });
}

__global__ void lengths_kernel(const int32_t* of, int64_t n, int64_t B, int64_t T, int64_t g, int64_t groups,
                               int32_t* out) {
  grid_stride(n, [&](int64_t e) {
    int64_t group = e % groups, half = e / groups / B, all = of ? min(int64_t{of[e / groups % B]}, T) : T;
    out[e] = int32_t(min(max(all - group_begin(half, group, g), int64_t{0}), group_size(half, group, g)));
  });
}

template <class T>
void split(const Tensor& x, const Tensor& y) {
  launch(split_kernel<T>, x.device(), grid_for(y.numel(), kThreads), kThreads, x.data<T>(), y.numel(), x.size(0),
         x.size(1), y.size(1), y.size(2) * y.size(3), y.size(0) / (2 * x.size(0)), y.data<T>());
}

template <class T>
void join(const Tensor& y, const Tensor& x) {
  launch(join_kernel<T>, x.device(), grid_for(x.numel(), kThreads), kThreads, y.data<T>(), x.numel(), x.size(0),
         x.size(1), y.size(1), y.size(2) * y.size(3), y.size(0) / (2 * x.size(0)), x.data<T>());
}

void lengths(const Tensor& of, int64_t T, int64_t g, const Tensor& out) {
  int64_t groups = groups_of(T, g);
  launch(lengths_kernel, out.device(), grid_for(out.numel(), kThreads), kThreads, of ? of.data<int32_t>() : nullptr,
         out.numel(), out.numel() / (2 * groups), T, g, groups, out.data<int32_t>());
}

template <class T>
bool add_kernels() {
  return split_groups_kernel.set(DeviceType::cuda, dtype_of<T>(), split<T>) &&
         join_groups_kernel.set(DeviceType::cuda, dtype_of<T>(), join<T>);
}
[[maybe_unused]] const bool registered = add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() &&
                                         add_kernels<f16>() &&
                                         group_lengths_kernel.set(DeviceType::cuda, DType::i32, lengths);

}  // namespace
}  // namespace basis::ops
