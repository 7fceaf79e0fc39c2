// Halves with widths of eight go through cuBLASLt's epilogues, which move the hidden channels once instead of thrice;
// everything else is a product and a pass.
#include "core/gemm/gemm.h"
#include "ops/common/column_sum.h"
#include "ops/common/functors.h"
#include "ops/common/map_cuda.cuh"
#include "ops/gelu_mlp/gelu_mlp.h"

namespace basis::ops {
namespace {

template <class T>
bool has_epilogue(const Tensor& a, const Tensor& pre) {
  return sizeof(T) == 2 && pre.size(1) % 8 == 0 && a.size(1) % 8 == 0;
}

template <class T>
void up_cuda(const Tensor& x, const Tensor& up, const Tensor& bias, const Tensor& pre, const Tensor& hidden) {
  if (has_epilogue<T>(x, pre)) {
    Gemm g{.trans_b = true, .m = pre.size(0), .n = pre.size(1), .k = x.size(1)};
    g.a = x.raw(), g.b = up.raw(), g.c = hidden.raw(), g.bias = bias.raw();
    g.lda = g.ldb = g.k, g.ldc = g.n, g.epilogue = Epilogue::gelu, g.aux = pre.raw();
    return gemm(g, x.dtype(), x.device());
  }
  using A = Accumulator<T>;
  core::matmul(x, false, up, true, pre, 0, bias);
  map<T>({pre}, {hidden}, [] __device__(const A* a, A* b) { b[0] = GeluTanh::value(a[0]); });
}

template <class T>
void down_backward_cuda(const Tensor& dy, const Tensor& down, const Tensor& pre, const Tensor& dpre,
                        const Tensor& dbias) {
  if (has_epilogue<T>(dy, pre)) {
    Gemm g{.m = pre.size(0), .n = pre.size(1), .k = dy.size(1)};
    g.a = dy.raw(), g.b = down.raw(), g.c = dpre.raw(), g.bias = dbias.raw();
    g.lda = g.k, g.ldb = g.ldc = g.n, g.epilogue = Epilogue::gelu_backward, g.aux = pre.raw();
    return gemm(g, dy.dtype(), dy.device());
  }
  using A = Accumulator<T>;
  core::matmul(dy, false, down, false, dpre);
  map<T>({pre, dpre}, {dpre}, [] __device__(const A* a, A* b) { b[0] = a[1] * GeluTanh::slope(a[0]); });
  if (dbias) column_sum(DeviceType::cuda, dpre.dtype(), dpre, dbias);
}

template <class T>
bool add_kernels() {
  return gelu_mlp_up.set(DeviceType::cuda, dtype_of<T>(), up_cuda<T>) &&
         gelu_mlp_down_backward.set(DeviceType::cuda, dtype_of<T>(), down_backward_cuda<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
