// Elementary tensor services: fill, strided copy with conversion, scaled accumulation, reductions over everything.
// All overwrite or update an existing tensor; none allocates results.
#pragma once

#include "core/kernel.h"
#include "core/tensor.h"

namespace basis::core {

void fill(const Tensor& t, double value);
// dst = src, any strides, any dtypes, one device.
void copy_strided(const Tensor& src, const Tensor& dst);
// y += alpha * x; contiguous, same shape and device; x may have another float dtype than y. Sums in y's dtype (f32 for
// halves).
void axpy(double alpha, const Tensor& x, const Tensor& y);
// x *= alpha, contiguous.
void scale(const Tensor& x, double alpha);

inline constinit KernelTable<void(const Tensor&, double)> fill_kernel{"fill"};
inline constinit KernelTable<void(const Tensor& src, const Tensor& dst)> copy_strided_kernel{"copy"};  // by src's dtype
inline constinit KernelTable<void(double, const Tensor& x, const Tensor& y)> axpy_kernel{"axpy"};      // by y's dtype
inline constinit KernelTable<void(const Tensor&, double)> scale_kernel{"scale"};

}  // namespace basis::core
