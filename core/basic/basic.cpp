#include "core/basic/basic.h"

namespace basis::core {

void fill(const Tensor& t, double value) {
  if (t.numel() > 0) fill_kernel(t.device().type, t.dtype(), t, value);
}

void copy_strided(const Tensor& src, const Tensor& dst) {
  if (src.numel() > 0) copy_strided_kernel(src.device().type, src.dtype(), src, dst);
}

void axpy(double alpha, const Tensor& x, const Tensor& y) {
  if (!(x.shape() == y.shape()) || !x.is_contiguous() || !y.is_contiguous() || !(x.device() == y.device()))
    throw Error({.where = "axpy",
                 .expected = "contiguous " + y.shape().str() + " on " + name_of(y.device()),
                 .got = x.shape().str() + " on " + name_of(x.device())});
  if (x.numel() > 0) axpy_kernel(y.device().type, y.dtype(), alpha, x, y);
}

void scale(const Tensor& x, double alpha) {
  if (!x.is_contiguous()) throw Error({.where = "scale", .expected = "a contiguous tensor", .got = x.shape().str()});
  if (x.numel() > 0) scale_kernel(x.device().type, x.dtype(), x, alpha);
}

}  // namespace basis::core
