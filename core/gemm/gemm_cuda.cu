// cuBLASLt is column-major: a row-major C = A B is the column-major C^T = B^T A^T on the same memory.
#include <map>
#include <mutex>
#include <tuple>

#include "core/cuda/launch.cuh"
#include "core/gemm/gemm.h"
#include "core/stream.h"

namespace basis::core {
namespace {

constexpr size_t kWorkspace = size_t{32} << 20;  // bytes; NVIDIA's recommendation for Hopper

struct Types {
  cudaDataType_t data, scale;
  cublasComputeType_t compute;
};
Types types_of(DType t) {
  if (t == DType::f64) return {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F};
  if (t == DType::f32) return {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F};  // no TF32
  return {t == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
}

int alignment_of(const void* p) {  // the power of two up to 256 that divides the address
  auto a = reinterpret_cast<uintptr_t>(p);
  int bytes = 256;
  while (a % uintptr_t(bytes)) bytes /= 2;
  return bytes;
}

// Descriptors and the chosen algorithm of one kind of call; kept for the life of the process.
struct Plan {
  cublasLtMatmulDesc_t op = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

using Key = std::tuple<int, int, bool, bool, bool, bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                       int64_t, int64_t, int64_t, int, int, int, int, int, bool>;

template <class T>
void set(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t what, T value) {
  CUDA_CHECK(cublasLtMatmulDescSetAttribute(op, what, &value, sizeof value));
}

cublasLtEpilogue_t epilogue_of(const Gemm& g) {
  bool bias = g.bias != nullptr;
  if (g.epilogue == Epilogue::gelu) return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  if (g.epilogue == Epilogue::gelu_backward) return bias ? CUBLASLT_EPILOGUE_DGELU_BGRAD : CUBLASLT_EPILOGUE_DGELU;
  return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

void set_pointers(cublasLtMatmulDesc_t op, const Gemm& g) {
  if (g.bias) set(op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  if (g.epilogue != Epilogue::none) set(op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.aux);
}

cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld, int64_t batch,
                              int64_t stride) {
  cublasLtMatrixLayout_t l;
  CUDA_CHECK(cublasLtMatrixLayoutCreate(&l, type, uint64_t(rows), uint64_t(cols), ld));
  if (batch > 1) {
    int32_t count = int32_t(batch);
    CUDA_CHECK(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
    CUDA_CHECK(
        cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
  }
  return l;
}

Plan make_plan(cublasLtHandle_t handle, const Gemm& g, DType dtype) {
  Types t = types_of(dtype);
  Plan p;
  CUDA_CHECK(cublasLtMatmulDescCreate(&p.op, t.compute, t.scale));
  set(p.op, CUBLASLT_MATMUL_DESC_TRANSA, g.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(p.op, CUBLASLT_MATMUL_DESC_TRANSB, g.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(p.op, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(g));
  if (g.epilogue != Epilogue::none) set(p.op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.n);
  set_pointers(p.op, g);
  p.a = layout(t.data, g.trans_b ? g.k : g.n, g.trans_b ? g.n : g.k, g.ldb, g.batch, g.stride_b);
  p.b = layout(t.data, g.trans_a ? g.m : g.k, g.trans_a ? g.k : g.m, g.lda, g.batch, g.stride_a);
  p.c = layout(g.c_wide && t.data != CUDA_R_64F ? CUDA_R_32F : t.data, g.n, g.m, g.ldc, g.batch, g.stride_c);
  cublasLtMatmulPreference_t preference;
  CUDA_CHECK(cublasLtMatmulPreferenceCreate(&preference));
  auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
    CUDA_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, what, &value, sizeof value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspace});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t(alignment_of(g.b)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t(alignment_of(g.a)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(alignment_of(g.c)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(alignment_of(g.c)));
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  CUDA_CHECK(cublasLtMatmulAlgoGetHeuristic(handle, p.op, p.a, p.b, p.c, p.c, preference, 1, &result, &found));
  CUDA_CHECK(cublasLtMatmulPreferenceDestroy(preference));
  if (found == 0)
    throw Error({.where = "gemm",
                 .expected = "a cuBLASLt algorithm",
                 .got = "none for " + std::to_string(g.m) + " x " + std::to_string(g.n) + " x " + std::to_string(g.k)});
  p.algorithm = result.algo;
  return p;
}

// Handle, workspaces and plans of one device.
struct Library {
  cublasLtHandle_t handle = nullptr;
  std::map<void*, std::shared_ptr<Storage>> workspaces;  // by stream: two streams must not share one
  std::map<Key, Plan> plans;
};

void gemm_cuda(const Gemm& g, DType dtype, Device device) {
  static std::mutex mutex;
  static auto* libraries = new std::map<int, Library>;  // leaked: the driver may be gone before static destruction
  void* stream = current_stream(device.index).handle;
  std::lock_guard lock(mutex);
  Library& lib = (*libraries)[device.index];
  if (!lib.handle) CUDA_CHECK(cublasLtCreate(&lib.handle));
  auto& workspace = lib.workspaces[stream];
  if (!workspace) workspace = allocate(device, kWorkspace);
  Key key{int(dtype),
          device.index,
          g.trans_a,
          g.trans_b,
          g.bias != nullptr,
          g.beta != 0,
          g.m,
          g.n,
          g.k,
          g.batch,
          g.lda,
          g.ldb,
          g.ldc,
          g.stride_a,
          g.stride_b,
          g.stride_c,
          alignment_of(g.a),
          alignment_of(g.b),
          alignment_of(g.c),
          alignment_of(g.bias),
          int(g.epilogue),
          g.c_wide};
  auto found = lib.plans.find(key);
  if (found == lib.plans.end()) found = lib.plans.emplace(key, make_plan(lib.handle, g, dtype)).first;
  Plan& p = found->second;
  set_pointers(p.op, g);
  float alpha32 = float(g.alpha), beta32 = float(g.beta);
  bool wide = dtype == DType::f64;
  const void* alpha = wide ? static_cast<const void*>(&g.alpha) : &alpha32;
  const void* beta = wide ? static_cast<const void*>(&g.beta) : &beta32;
  CUDA_CHECK(cublasLtMatmul(lib.handle, p.op, alpha, g.b, p.a, g.a, p.b, beta, g.c, p.c, g.c, p.c, &p.algorithm,
                            workspace->data, kWorkspace, static_cast<cudaStream_t>(stream)));
}

// C = beta C + bias: the product of an empty sum, which cuBLASLt refuses.
template <class T>
__global__ void empty_sum_kernel(T* c, const T* bias, Gemm g) {
  using A = Accumulator<T>;
  grid_stride(g.batch * g.m * g.n, [&](int64_t at) {
    int64_t b = at / (g.m * g.n), i = at / g.n % g.m, j = at % g.n;
    T& out = c[b * g.stride_c + i * g.ldc + j];
    A kept = g.beta == 0 ? A(0) : A(g.beta) * widen(out);
    out = device_convert<T>(kept + (bias ? widen(bias[j]) : A(0)));
  });
}

template <class T>
void gemm_typed(const Gemm& g, Device device) {
  if (g.k == 0)
    launch(empty_sum_kernel<T>, device, grid_for(g.batch * g.m * g.n, 256), 256, static_cast<T*>(g.c),
           static_cast<const T*>(g.bias), g);
  else
    gemm_cuda(g, dtype_of<T>(), device);
}

REGISTER_KERNEL(gemm_kernel, cuda, f32, gemm_typed<float>)
REGISTER_KERNEL(gemm_kernel, cuda, f64, gemm_typed<double>)
REGISTER_KERNEL(gemm_kernel, cuda, bf16, gemm_typed<bf16>)
REGISTER_KERNEL(gemm_kernel, cuda, f16, gemm_typed<f16>)

}  // namespace
}  // namespace basis::core
