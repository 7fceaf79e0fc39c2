#include "core/gemm/gemm.h"

#include "core/basic/basic.h"

namespace basis::core {

void gemm(const Gemm& g, DType dtype, Device device) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  gemm_kernel(device.type, dtype, g, device);
}

void matmul(const Tensor& a, bool ta, const Tensor& b, bool tb, const Tensor& out, double beta, const Tensor& bias) {
  auto describe = [&] {
    return a.shape().str() + (ta ? "^T" : "") + " x " + b.shape().str() + (tb ? "^T" : "") + " -> " + out.shape().str();
  };
  bool wide = size_of(a.dtype()) == 2 && out.dtype() == DType::f32 && !bias;
  bool fits = a.dim() == 2 && b.dim() == 2 && out.dim() == 2 && a.is_contiguous() && b.is_contiguous() &&
              out.is_contiguous() && a.size(ta ? 1 : 0) == out.size(0) && b.size(tb ? 0 : 1) == out.size(1) &&
              a.size(ta ? 0 : 1) == b.size(tb ? 1 : 0) && a.dtype() == b.dtype() &&
              (a.dtype() == out.dtype() || wide) &&
              (!bias || (bias.numel() == out.size(1) && bias.dtype() == out.dtype()));
  if (!fits)
    throw Error({.where = "matmul", .expected = "contiguous matrices of one dtype that fit", .got = describe()});
  Gemm g{.trans_a = ta, .trans_b = tb, .m = out.size(0), .n = out.size(1), .k = a.size(ta ? 0 : 1)};
  g.a = a.raw(), g.b = b.raw(), g.c = out.raw(), g.bias = bias.raw();
  g.lda = a.size(1), g.ldb = b.size(1), g.ldc = out.size(1), g.beta = beta;
  g.c_wide = wide;
  gemm(g, a.dtype(), out.device());
}

}  // namespace basis::core
