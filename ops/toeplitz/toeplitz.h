// Products with lower-triangular Toeplitz matrices by FFT (conv(a) and conv(a, m) of arXiv 2405.05219, Definitions 3.8
// and 3.9), in O(C n log n).
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct ToeplitzOptions {
  int64_t m = 0;            // the matrix is zero except for its last m rows and columns; 0: all n
  bool transposed = false;  // multiply by the transpose
};

// a [n], x [n, C], float -> y [n, C]:  y[i] = sum over j <= i of a[i - j] x[j] within the last m positions, 0 before
// them. Halves are transformed in f32. The error is relative to the largest rows. Throws core::Error for other shapes
// and m > n.
Var toeplitz(const Var& a, const Var& x, const ToeplitzOptions& options = {});

// out[f, c] = a[f] x[f, c], or a*[f] x[f, c]; spectra [F, 1, 2], [F, C, 2].
inline constinit KernelTable<void(const Tensor& a, const Tensor& x, bool conjugated, const Tensor& out)>
    spectrum_product{"toeplitz"};
// out[f] = sum over c of x*[f, c] y[f, c]; [F, C, 2] twice -> [F, 1, 2].
inline constinit KernelTable<void(const Tensor& x, const Tensor& y, const Tensor& out)> spectrum_dot{
    "toeplitz backward"};

}  // namespace basis::ops
