// The one place where errors of CUDA and its libraries become core::Error.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cufft.h>

#include <string>

#include "core/error.h"

namespace basis::core {

inline void cuda_check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  bool memory = status == cudaErrorMemoryAllocation;
  throw Error({.where = "cuda",
               .expected = std::string(call) + " to succeed",
               .got = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status),
               .remedy = memory ? "lower train.micro_batch or data.seq_len, or set train.recompute" : ""});
}
inline void cuda_check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(
      {.where = "cublasLt", .expected = std::string(call) + " to succeed", .got = cublasGetStatusString(status)});
}
inline void cuda_check(cufftResult status, const char* call) {
  if (status == CUFFT_SUCCESS) return;
  throw Error({.where = "cufft",
               .expected = std::string(call) + " to succeed",
               .got = "cufftResult " + std::to_string(int(status))});
}

}  // namespace basis::core

#define CUDA_CHECK(...) ::basis::core::cuda_check((__VA_ARGS__), #__VA_ARGS__)
