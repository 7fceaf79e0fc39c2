// A block takes one position of some sequences: it computes the position's sines and cosines once, the angle in f64 as
// on the CPU, and rotates all heads by them. Memory-bound: 16 bytes a load where the sizes allow it.
#include "core/cuda/launch.cuh"
#include "ops/rope/rope.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256;
constexpr int64_t kElements = 8192;  // a block should rotate, so that the angles cost little

struct Geometry {
  double theta, position_scale;
  int64_t first;
  bool interleaved;
  int direction, half;                   // pairs of a head
  int64_t batch, time, heads, D, slice;  // slice: sequences of a block
};

// W pairs a thread: channels i.. and i + half.., or 2 W channels next to each other.
template <int W, class T>
__global__ void __launch_bounds__(kThreads) rope_kernel_cuda(const T* x, T* y, Geometry g) {
  using A = Accumulator<T>;
  extern __shared__ double memory[];
  A *sine = reinterpret_cast<A*>(memory), *cosine = sine + g.half;
  int64_t t = blockIdx.x, begin = blockIdx.y * g.slice, end = min(begin + g.slice, g.batch);
  for (int i = threadIdx.x; i < g.half; i += kThreads) {
    double s, c;
    sincos(g.position_scale * double(g.first + t) * pow(g.theta, -2.0 * double(i) / double(2 * g.half)), &s, &c);
    sine[i] = A(g.direction * s), cosine[i] = A(c);
  }
  __syncthreads();
  int groups = g.half / W, copied = int(g.D) - 2 * g.half, heads = int(g.heads);
  for (int64_t b = begin; b < end; ++b) {
    int64_t at = (b * g.time + t) * g.heads * g.D;
    for (int item = threadIdx.x; item < heads * groups; item += kThreads) {
      int i = item % groups * W;
      int64_t one = at + item / groups * g.D + (g.interleaved ? 2 * i : i), two = one + (g.interleaved ? W : g.half);
      Vec<T, W> u = load_vec<W>(x + one), v = load_vec<W>(x + two);
#pragma unroll
      for (int j = 0; j < W; ++j) {
        // Interleaved: pair j lies in u and v one after the other.
        T& first = g.interleaved ? (2 * j < W ? u.v[2 * j % W] : v.v[2 * j % W]) : u.v[j];
        T& second = g.interleaved ? (2 * j + 1 < W ? u.v[(2 * j + 1) % W] : v.v[(2 * j + 1) % W]) : v.v[j];
        A p = widen(first), q = widen(second), s = sine[i + j], c = cosine[i + j];
        first = device_convert<T>(p * c - q * s);
        second = device_convert<T>(p * s + q * c);
      }
      store_vec(y + one, u), store_vec(y + two, v);
    }
    for (int item = threadIdx.x; item < heads * copied; item += kThreads) {
      int64_t channel = at + item / copied * g.D + 2 * g.half + item % copied;
      y[channel] = x[channel];
    }
  }
}

template <class T>
void rope_cuda(const Tensor& x, const RopeOptions& o, int direction, const Tensor& y) {
  int64_t D = x.size(3), R = o.rotary_dim ? o.rotary_dim : D;
  Geometry g{o.theta,    o.position_scale, o.first_position, o.interleaved, direction,
             int(R / 2), x.size(0),        x.size(1),        x.size(2),     D,
             1};
  g.slice = std::max<int64_t>(1, std::min(g.batch, kElements / std::max<int64_t>(1, g.heads * D)));
  constexpr int W = kVecWidth<T>;
  bool wide = aligned16<T>(D, {x.data<T>(), y.data<T>()}) && g.half % W == 0;
  launch_shared(wide ? rope_kernel_cuda<W, T> : rope_kernel_cuda<1, T>, x.device(),
                dim3(unsigned(g.time), unsigned(ceil_div(g.batch, g.slice))), kThreads,
                size_t(2 * g.half) * sizeof(Accumulator<T>), x.data<T>(), y.data<T>(), g);
}

REGISTER_KERNEL(rope_kernel, cuda, f32, rope_cuda<float>)
REGISTER_KERNEL(rope_kernel, cuda, f64, rope_cuda<double>)
REGISTER_KERNEL(rope_kernel, cuda, bf16, rope_cuda<bf16>)
REGISTER_KERNEL(rope_kernel, cuda, f16, rope_cuda<f16>)

}  // namespace
}  // namespace basis::ops
