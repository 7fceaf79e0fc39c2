// One thread per 16 bytes, whole Philox blocks of four elements: the mask is recomputed in backward, never stored.
#include "core/cuda/launch.cuh"
#include "ops/dropout/dropout.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

// W elements a thread: 4 or 8.
template <int W, class T>
__device__ __forceinline__ void drop(uint64_t seed, uint64_t stream, float p, Accumulator<T> scale, int64_t at,
                                     Vec<T, W>& v) {
#pragma unroll
  for (int block = 0; block < W / 4; ++block) {
    Philox4 r = philox(seed, stream, uint64_t(at / 4 + block));
    const uint32_t words[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      T& x = v.v[4 * block + j];
      x = device_convert<T>(uniform_from_bits(words[j]) >= p ? widen(x) * scale : Accumulator<T>(0));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    drop_kernel(DropoutOptions o, Accumulator<T> scale, bool aligned, const T* x, T* y, int64_t n) {
  constexpr int W = kVecWidth<T> < 4 ? 4 : kVecWidth<T>;
  uint64_t stream = stream_at(o.stream, o.base);
  grid_stride((n + W - 1) / W, [&](int64_t i) {
    int64_t at = i * W;
    Vec<T, W> v;
    if (aligned && at + W <= n) {
      v = load_vec<W>(x + at);
      drop<W>(o.seed, stream, float(o.p), scale, at, v);
      store_vec(y + at, v);
      return;
    }
#pragma unroll
    for (int j = 0; j < W; ++j)
      if (at + j < n) v.v[j] = x[at + j];
    drop<W>(o.seed, stream, float(o.p), scale, at, v);
#pragma unroll
    for (int j = 0; j < W; ++j)
      if (at + j < n) y[at + j] = v.v[j];
  });
}

template <class T>
void dropout_cuda(const DropoutOptions& o, const Tensor& x, const Tensor& y) {
  constexpr int W = kVecWidth<T> < 4 ? 4 : kVecWidth<T>;
  auto misaligned = (reinterpret_cast<uintptr_t>(x.raw()) | reinterpret_cast<uintptr_t>(y.raw())) % sizeof(Vec<T, W>);
  launch(drop_kernel<T>, x.device(), grid_for(ceil_div(x.numel(), W), kThreads), kThreads, o,
         Accumulator<T>(1 / (1 - o.p)), misaligned == 0, x.data<T>(), y.data<T>(), x.numel());
}

REGISTER_KERNEL(dropout_kernel, cuda, f32, dropout_cuda<float>)
REGISTER_KERNEL(dropout_kernel, cuda, f64, dropout_cuda<double>)
REGISTER_KERNEL(dropout_kernel, cuda, bf16, dropout_cuda<bf16>)
REGISTER_KERNEL(dropout_kernel, cuda, f16, dropout_cuda<f16>)

}  // namespace
}  // namespace basis::ops
