#include <cblas.h>

#include "core/gemm/gemm.h"
#include "core/parallel.h"

namespace basis::core {
namespace {

void call(const Gemm& g, const float* a, const float* b, float* c, double beta) {
  cblas_sgemm(CblasRowMajor, g.trans_a ? CblasTrans : CblasNoTrans, g.trans_b ? CblasTrans : CblasNoTrans, int(g.m),
              int(g.n), int(g.k), float(g.alpha), a, int(g.lda), b, int(g.ldb), float(beta), c, int(g.ldc));
}
void call(const Gemm& g, const double* a, const double* b, double* c, double beta) {
  cblas_dgemm(CblasRowMajor, g.trans_a ? CblasTrans : CblasNoTrans, g.trans_b ? CblasTrans : CblasNoTrans, int(g.m),
              int(g.n), int(g.k), g.alpha, a, int(g.lda), b, int(g.ldb), beta, c, int(g.ldc));
}

// The bias is written first and the product added to it: one pass over C less than adding it afterwards.
template <class T>
void spread_bias(const Gemm& g, int64_t product, T* c) {
  const T* bias = static_cast<const T*>(g.bias) + product * g.stride_bias;
  parallel_for(g.m, std::max<int64_t>(1, 32768 / g.n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < g.n; ++j) c[i * g.ldc + j] = T(g.beta == 0 ? 0 : g.beta * c[i * g.ldc + j]) + bias[j];
  });
}

template <class T>
void gemm_cpu(const Gemm& g, Device) {
  for (int64_t i = 0; i < g.batch; ++i) {
    T* c = static_cast<T*>(g.c) + i * g.stride_c;
    if (g.bias) spread_bias(g, i, c);
    if (g.k == 0) {
      for (int64_t r = 0; r < g.m && !g.bias; ++r)
        for (int64_t j = 0; j < g.n; ++j) c[r * g.ldc + j] = g.beta == 0 ? T(0) : T(g.beta * c[r * g.ldc + j]);
      continue;
    }
    call(g, static_cast<const T*>(g.a) + i * g.stride_a, static_cast<const T*>(g.b) + i * g.stride_b, c,
         g.bias ? 1.0 : g.beta);
  }
}

REGISTER_KERNEL(gemm_kernel, cpu, f32, gemm_cpu<float>)
REGISTER_KERNEL(gemm_kernel, cpu, f64, gemm_cpu<double>)

}  // namespace
}  // namespace basis::core
