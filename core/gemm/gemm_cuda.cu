// cuBLASLt is column-major: a row-major C = A B is the column-major C^T = B^T A^T on the same memory.
//
// Its first proposal for a shape is often not its fastest kernel (up to 20 % on an H200). So the first call of a kind
// times what it proposes and keeps the best, unless runs are to repeat their bits: another process may choose
// otherwise.
#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "core/cuda/launch.cuh"
#include "core/gemm/gemm.h"
#include "core/stream.h"

namespace basis::core {
namespace {

constexpr size_t kWorkspace = size_t{64} << 20;  // bytes; twice NVIDIA's recommendation for Hopper
constexpr int kCandidates = 24;

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

struct Algorithm {  // a name for the library's unnamed struct, which nvcc cannot put in a vector
  cublasLtMatmulAlgo_t value{};
};

// Descriptors and the chosen algorithm of one kind of call; kept for the life of the process.
struct Plan {
  cublasLtMatmulDesc_t op = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  std::vector<Algorithm> candidates;  // until one is chosen
  Algorithm algorithm;
};

using Key = std::array<int64_t, 23>;

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
  if (g.bias && g.batch > 1) set(p.op, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, g.stride_bias);
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
  cublasLtMatmulHeuristicResult_t results[kCandidates];
  int found = 0;
  CUDA_CHECK(
      cublasLtMatmulAlgoGetHeuristic(handle, p.op, p.a, p.b, p.c, p.c, preference, kCandidates, results, &found));
  CUDA_CHECK(cublasLtMatmulPreferenceDestroy(preference));
  if (found == 0)
    throw Error({.where = "gemm",
                 .expected = "a cuBLASLt algorithm",
                 .got = "none for " + std::to_string(g.m) + " x " + std::to_string(g.n) + " x " + std::to_string(g.k)});
  for (int i = 0; i < found; ++i) p.candidates.push_back({results[i].algo});
  p.algorithm = p.candidates[0];
  return p;
}

// Handle, workspaces and plans of one device.
struct Library {
  cublasLtHandle_t handle = nullptr;
  std::map<void*, std::shared_ptr<Storage>> workspaces;  // by stream: two streams must not share one
  std::map<Key, Plan> plans;
};

struct Call {
  const Library& lib;
  const Plan& plan;
  const Gemm& g;
  void* workspace;
  cudaStream_t stream;
  bool wide;  // f64

  cublasStatus_t operator()(const Algorithm& algorithm, void* c) const {
    float alpha32 = float(g.alpha), beta32 = float(g.beta);
    const void* alpha = wide ? static_cast<const void*>(&g.alpha) : &alpha32;
    const void* beta = wide ? static_cast<const void*>(&g.beta) : &beta32;
    return cublasLtMatmul(lib.handle, plan.op, alpha, g.b, plan.a, g.a, plan.b, beta, c, plan.c, c, plan.c,
                          &algorithm.value, workspace, kWorkspace, stream);
  }
};

// Whether timing makes sense: not while a graph is recorded, and not where another choice would change bits.
bool may_time(const Gemm& g, cudaStream_t stream) {
  if (deterministic() || double(g.m) * double(g.n) * double(g.k) * double(g.batch) < 1e8) return false;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status == cudaStreamCaptureStatusNone;
}

// The fastest of the candidates for this call, by two runs after one to warm up; the first stays unless it loses by 1
// %. Where C is added to, another block takes its place.
Algorithm fastest(const Call& call, Device device, DType dtype) {
  const Gemm& g = call.g;
  void* c = g.c;
  std::shared_ptr<Storage> other;
  if (g.beta != 0) {
    int64_t elements = std::max((g.batch - 1) * g.stride_c + (g.m - 1) * g.ldc + g.n, int64_t{1});
    other = allocate(device, size_t(elements) * size_t(g.c_wide && size_of(dtype) == 2 ? 4 : size_of(dtype)));
    c = other->data;
  }
  cudaEvent_t begin, end;
  CUDA_CHECK(cudaEventCreate(&begin));
  CUDA_CHECK(cudaEventCreate(&end));
  size_t best = 0;
  float best_ms = INFINITY;
  for (size_t i = 0; i < call.plan.candidates.size(); ++i) {
    const auto& algorithm = call.plan.candidates[i];
    if (call(algorithm, c) != CUBLAS_STATUS_SUCCESS) continue;
    CUDA_CHECK(cudaEventRecord(begin, call.stream));
    bool ran = call(algorithm, c) == CUBLAS_STATUS_SUCCESS && call(algorithm, c) == CUBLAS_STATUS_SUCCESS;
    CUDA_CHECK(cudaEventRecord(end, call.stream));
    CUDA_CHECK(cudaEventSynchronize(end));
    float ms = 0;
    CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (ran && ms < best_ms * (best == 0 ? 0.99f : 1.0f)) best = i, best_ms = ms;
  }
  CUDA_CHECK(cudaEventDestroy(begin));
  CUDA_CHECK(cudaEventDestroy(end));
  return call.plan.candidates[best];
}

void gemm_cuda(const Gemm& g, DType dtype, Device device) {
  static std::mutex mutex;
  static auto* libraries = new std::map<int, Library>;  // leaked: the driver may be gone before static destruction
  void* stream = current_stream(device.index).handle;
  std::lock_guard lock(mutex);
  Library& lib = (*libraries)[device.index];
  if (!lib.handle) CUDA_CHECK(cublasLtCreate(&lib.handle));
  auto& workspace = lib.workspaces[stream];
  if (!workspace) workspace = allocate(device, kWorkspace);
  Key key{int64_t(dtype),
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
          int64_t(g.epilogue),
          g.c_wide,
          g.stride_bias};
  auto found = lib.plans.find(key);
  if (found == lib.plans.end()) found = lib.plans.emplace(key, make_plan(lib.handle, g, dtype)).first;
  Plan& p = found->second;
  set_pointers(p.op, g);
  auto on = static_cast<cudaStream_t>(stream);
  Call call{lib, p, g, workspace->data, on, dtype == DType::f64};
  if (!p.candidates.empty() && may_time(g, on)) {
    p.algorithm = fastest(call, device, dtype);
    p.candidates.clear();
  }
  CUDA_CHECK(call(p.algorithm, g.c));
}

// C = beta C + bias: the product of an empty sum, which cuBLASLt refuses.
template <class T>
__global__ void empty_sum_kernel(T* c, const T* bias, Gemm g) {
  using A = Accumulator<T>;
  grid_stride(g.batch * g.m * g.n, [&](int64_t at) {
    int64_t b = at / (g.m * g.n), i = at / g.n % g.m, j = at % g.n;
    T& out = c[b * g.stride_c + i * g.ldc + j];
    A kept = g.beta == 0 ? A(0) : A(g.beta) * widen(out);
    out = device_convert<T>(kept + (bias ? widen(bias[b * g.stride_bias + j]) : A(0)));
  });
}

template <class C>
void empty_sum(const Gemm& g, Device device) {
  launch(empty_sum_kernel<C>, device, grid_for(g.batch * g.m * g.n, 256), 256, static_cast<C*>(g.c),
         static_cast<const C*>(g.bias), g);
}

template <class T>
void gemm_typed(const Gemm& g, Device device) {
  if (g.k != 0) return gemm_cuda(g, dtype_of<T>(), device);
  if (g.c_wide && sizeof(T) == 2) return empty_sum<float>(g, device);
  empty_sum<T>(g, device);
}

REGISTER_KERNEL(gemm_kernel, cuda, f32, gemm_typed<float>)
REGISTER_KERNEL(gemm_kernel, cuda, f64, gemm_typed<double>)
REGISTER_KERNEL(gemm_kernel, cuda, bf16, gemm_typed<bf16>)
REGISTER_KERNEL(gemm_kernel, cuda, f16, gemm_typed<f16>)

}  // namespace
}  // namespace basis::core
