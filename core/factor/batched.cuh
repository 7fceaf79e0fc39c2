// What the factorisations on a GPU share: the shapes of a batch, and cuBLAS over its heads. Matrices as this folder
// stores them, row-major [dh, d] for a head: cuBLAS, column-major, sees their transposes.
#pragma once

#include <cublas_v2.h>

#include "core/cuda/launch.cuh"
#include "core/factor/decompose.h"

namespace basis::core::factor {

struct Batch {
  int tasks, heads;  // heads of one task
  int dh, d;
  Device device;
  int all() const { return tasks * heads; }
  Tensor empty(const Shape& shape, DType dtype) const { return Tensor::empty(shape, dtype, device); }
};

// On the device's current stream.
cublasHandle_t cublas(Device device);

// Addresses of the matrices of x [n, ...], for cuBLAS's batched routines, [n] of 8 bytes.
Tensor addresses(const Tensor& x);
template <class T>
T** pointers(const Tensor& addresses) {
  return static_cast<T**>(addresses.raw());
}

// C [batch] = op(A) op(B) in cuBLAS's terms, every stride in elements.
template <class T>
void gemm_batched(Device device, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const T* a, int lda,
                  int64_t stride_a, const T* b, int ldb, int64_t stride_b, T* c, int ldc, int64_t stride_c, int batch) {
  T one = 1, zero = 0;
  auto call = [&](auto function) {
    CUDA_CHECK(function(cublas(device), ta, tb, m, n, k, &one, a, lda, stride_a, b, ldb, stride_b, &zero, c, ldc,
                        stride_c, batch));
  };
  if constexpr (sizeof(T) == 8)
    call(cublasDgemmStridedBatched);
  else
    call(cublasSgemmStridedBatched);
}

// T [all, dh, dh] f64 of the channels rows [tasks, dh] i32: row i of a head's T is channel rows[i] of w [all, dh, d].
Tensor gather_t(const Batch& b, const Tensor& w, const Tensor& rows);

// rows [tasks, dh] i32 on the device: what choose_basis takes with `pivoted` and a partner. w [all, dh, d] f64, partner
// [all * group * dh, n] f64, open [tasks, d] u8 (1: may be taken; those chosen are cleared). singular [all] i32
// receives 1 where a head has not full rank, so that its task's rows mean nothing.
Tensor choose_rows(const Batch& b, const Tensor& w, const Tensor& partner, const Tensor& open, const Tensor& singular);

// The exchanges that follow the greedy choice (least_error.h); changes rows and open.
void exchange_rows(const Batch& b, const Tensor& w, const Tensor& partner, const Tensor& open, const Tensor& rows);

// condition [all] f64 of t [all, dh, dh] in the 2-norm; NaN where the squares' precision does not reach it.
Tensor conditions(const Batch& b, const Tensor& t);

}  // namespace basis::core::factor
