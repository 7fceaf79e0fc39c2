#include <cmath>

#include "core/parallel.h"
#include "ops/row_gate/row_gate.h"

namespace basis::ops {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a thread takes at least

template <class T>
T gate(T score) {
  return 2 / (1 + std::exp(-score));
}

template <class T>
void forward(const Tensor& x, const Tensor& score, const Tensor& y) {
  int64_t rows = score.numel(), D = x.numel() / rows;
  const T *in = x.data<T>(), *s = score.data<T>();
  T* out = y.data<T>();
  core::parallel_for(rows, kGrain / D + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T g = gate(s[r]);
      for (int64_t d = 0; d < D; ++d) out[r * D + d] = g * in[r * D + d];
    }
  });
}

template <class T>
void backward(const Tensor& x, const Tensor& score, const Tensor& dy, const Tensor& dx, const Tensor& dscore) {
  int64_t rows = score.numel(), D = x.numel() / rows;
  const T *in = x.data<T>(), *s = score.data<T>(), *dout = dy.data<T>();
  T *din = dx.data<T>(), *ds = dscore.data<T>();
  core::parallel_for(rows, kGrain / D + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T g = gate(s[r]), dot = 0;
      for (int64_t d = 0; d < D; ++d) {
        dot += in[r * D + d] * dout[r * D + d];
        din[r * D + d] = g * dout[r * D + d];
      }
      ds[r] = g * (1 - g / 2) * dot;
    }
  });
}

template <class T>
bool add_kernels() {
  return row_gate_forward.set(core::DeviceType::cpu, core::dtype_of<T>(), forward<T>) &&
         row_gate_backward.set(core::DeviceType::cpu, core::dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered = add_kernels<float>() && add_kernels<double>();

}  // namespace
}  // namespace basis::ops
