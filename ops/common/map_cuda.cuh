// One pass over memory for any pointwise function, 16 bytes at a time where the addresses allow it: In inputs, Out
// outputs, and a body on widened values.
#pragma once

#include "core/cuda/launch.cuh"
#include "ops/common/functors.h"

namespace basis::ops {

using namespace core;

inline constexpr int kMapThreads = 256;

// The hardware's exponential and division, with relative errors of about 2^-21: far below the rounding of 16 bits,
// and several times fewer instructions, which such passes over memory have no time for.
struct Hardware {
  static __device__ __forceinline__ float exp(float x) { return __expf(x); }
  static __device__ __forceinline__ float ratio(float x, float y) { return __fdividef(x, y); }
};
template <class T>
using MathOf = std::conditional_t<sizeof(T) == 2, Hardware, Precise>;

// The tensors of one call. Input i repeats with period[i] elements (a broadcast over leading axes).
template <class T, int In, int Out>
struct MapOperands {
  const T* in[In];
  T* out[Out];
  int64_t period[In];
};

template <int W, class T, int In, int Out, class F>
__global__ void __launch_bounds__(kMapThreads) map_kernel(int64_t vectors, MapOperands<T, In, Out> t, F f) {
  using A = Accumulator<T>;
  grid_stride(vectors, [&](int64_t i) {
    Vec<T, W> x[In], y[Out];
#pragma unroll
    for (int k = 0; k < In; ++k) {
      int64_t at = i * W;
      x[k] = load_vec<W>(t.in[k] + (at < t.period[k] ? at : at % t.period[k]));
    }
#pragma unroll
    for (int j = 0; j < W; ++j) {
      A a[In], b[Out];
#pragma unroll
      for (int k = 0; k < In; ++k) a[k] = widen(x[k].v[j]);
      f(a, b);
#pragma unroll
      for (int k = 0; k < Out; ++k) y[k].v[j] = device_convert<T>(b[k]);
    }
#pragma unroll
    for (int k = 0; k < Out; ++k) store_vec(t.out[k] + i * W, y[k]);
  });
}

// f(const A* inputs, A* outputs) on every element; the first output has all of them.
template <class T, int In, int Out, class F>
void map(const Tensor (&in)[In], const Tensor (&out)[Out], F f) {
  MapOperands<T, In, Out> t;
  bool wide = true;
  for (int k = 0; k < In; ++k) {
    t.in[k] = in[k].template data<T>(), t.period[k] = in[k].numel();
    wide = wide && aligned16<T>(t.period[k], {t.in[k]});
  }
  for (int k = 0; k < Out; ++k)
    t.out[k] = out[k].template data<T>(), wide = wide && aligned16<T>(out[k].numel(), {t.out[k]});
  int64_t n = out[0].numel(), vectors = wide ? n / kVecWidth<T> : n;
  auto kernel = wide ? map_kernel<kVecWidth<T>, T, In, Out, F> : map_kernel<1, T, In, Out, F>;
  launch(kernel, out[0].device(), grid_for(vectors, kMapThreads), kMapThreads, vectors, t, f);
}

}  // namespace basis::ops
