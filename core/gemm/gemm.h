// Matrix products, a service for every op: OpenBLAS on the CPU (f32, f64), cuBLASLt on CUDA (f32, f64, bf16, f16;
// halves accumulate in f32). Row-major.
#pragma once

#include "core/kernel.h"
#include "core/tensor.h"

namespace basis::core {

// What a GEMM does to its product P (bias included) on the way out. GELU is the tanh form.
enum class Epilogue : uint8_t {
  none,          // C = P
  gelu,          // aux = P, C = gelu(P)
  gelu_backward  // C = P gelu'(aux), and `bias`, when given, receives C's column sums instead of being added
};

// C = alpha op(A) op(B) + beta C, with op(A) [m, k], op(B) [k, n], C [m, n]; `batch` products at the given strides
// (elements). Leading dimensions are row strides of the stored matrices.
struct Gemm {
  bool trans_a = false, trans_b = false;
  int64_t m = 0, n = 0, k = 0, batch = 1;
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  double alpha = 1, beta = 0;
  bool c_wide = false;                 // C is f32 where A and B are bf16 or f16: sums over several calls lose nothing
  const void* bias = nullptr;          // [n], added to every row, or null. CUDA adds it in the epilogue.
  int64_t stride_bias = 0;             // between the products of a batch
  Epilogue epilogue = Epilogue::none;  // others: CUDA, bf16 and f16, n a multiple of 8, one batch, beta 0
  void* aux = nullptr;                 // [m, n], rows of n
};

void gemm(const Gemm& g, DType dtype, Device device);

// out = op(a) op(b) (+ beta out) (+ bias) for contiguous 2-D tensors. Throws core::Error when shapes disagree.
// `out` may be f32 where a and b are bf16 or f16 (without bias).
void matmul(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& out, double beta = 0,
            const Tensor& bias = {});

inline constinit KernelTable<void(const Gemm&, Device)> gemm_kernel{"gemm"};

}  // namespace basis::core
