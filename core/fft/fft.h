// Fast Fourier transforms, a service for the ops that convolve. Sizes are powers of two.
//
//   X[f] = sum_t x[t] exp(-2 pi i f t / N)
//
// Never below f32: an FFT's error is relative to its largest term.
#pragma once

#include <cstdint>
#include <vector>

#include "core/kernel.h"
#include "core/tensor.h"

namespace basis::core {

// Real transforms along the second-last axis, all of them at once; contiguous tensors, f32 or f64 (CUDA: f32).
// x [..., N, C] -> spectrum [..., N/2 + 1, C, 2] (real, imaginary).
void rfft(const Tensor& x, const Tensor& spectrum);
// The inverse, normalised by 1/N. The spectrum's imaginary parts at f = 0 and N/2 are taken as 0.
void irfft(const Tensor& spectrum, const Tensor& x);

inline constinit KernelTable<void(const Tensor& x, const Tensor& spectrum)> rfft_kernel{"rfft"};
inline constinit KernelTable<void(const Tensor& spectrum, const Tensor& x)> irfft_kernel{"irfft"};

// Complex transforms of `lanes` sequences side by side on the CPU: x [N][2][lanes], real parts then imaginary parts,
// one vector register each. In place, and frequencies stand in bit-reversed order, which products by frequency do not
// mind: frequency f lies at place order()[f], and order() is its own inverse.
template <class T>
class LaneFft {
 public:
  static constexpr int lanes = 32 / int(sizeof(T));

  explicit LaneFft(int64_t n);
  static const LaneFft& of(int64_t n);  // kept for the life of the process; thread-safe

  int64_t size() const { return n_; }
  void forward(T* x) const { forward(x, n_); }
  void inverse(T* x) const { inverse(x, n_); }  // not normalised: gives N x
  const std::vector<int32_t>& order() const { return order_; }

 private:
  void forward(T* x, int64_t n) const;
  void inverse(T* x, int64_t n) const;

  int64_t n_;
  std::vector<T> twiddles_;  // exp(-2 pi i j / N): real, imaginary
  std::vector<int32_t> order_;
};

}  // namespace basis::core
