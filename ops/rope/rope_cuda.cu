// One thread per pair of channels. The angle is computed in f64 before its sine and cosine, as on the CPU.
#include "core/cuda/launch.cuh"
#include "ops/rope/rope.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class T>
__global__ void kernel(const T* x, T* y, double theta, double position_scale, int64_t first, bool interleaved,
                       int direction, int64_t n, int64_t time, int64_t H, int64_t D, int64_t R) {
  using A = Accumulator<T>;
  int64_t half = R / 2, slots = half + (D - R);  // per head: pairs, then channels that are only copied
  grid_stride(n * slots, [&](int64_t at) {
    int64_t row = at / slots, i = at % slots, t = row / H % time;
    const T* a = x + row * D;
    T* b = y + row * D;
    if (i >= half) {
      b[R + i - half] = a[R + i - half];
      return;
    }
    double s, c;
    sincos(position_scale * double(first + t) * pow(theta, -2.0 * double(i) / double(R)), &s, &c);
    int64_t one = interleaved ? 2 * i : i, two = interleaved ? 2 * i + 1 : i + half;
    A p = widen(a[one]), q = widen(a[two]), sine = A(direction * s), cosine = A(c);
    b[one] = device_convert<T>(p * cosine - q * sine);
    b[two] = device_convert<T>(p * sine + q * cosine);
  });
}

template <class T>
void rope_cuda(const Tensor& x, const RopeOptions& o, int direction, const Tensor& y) {
  int64_t n = x.size(0) * x.size(1) * x.size(2), D = x.size(3), R = o.rotary_dim ? o.rotary_dim : D;
  launch(kernel<T>, x.device(), grid_for(n * (D - R / 2), kThreads), kThreads, x.data<T>(), y.data<T>(), o.theta,
         o.position_scale, o.first_position, o.interleaved, direction, n, x.size(1), x.size(2), D, R);
}

REGISTER_KERNEL(rope_kernel, cuda, f32, rope_cuda<float>)
REGISTER_KERNEL(rope_kernel, cuda, f64, rope_cuda<double>)
REGISTER_KERNEL(rope_kernel, cuda, bf16, rope_cuda<bf16>)
REGISTER_KERNEL(rope_kernel, cuda, f16, rope_cuda<f16>)

}  // namespace
}  // namespace basis::ops
