// The BD projection's Hopper kernels alone, against cuBLASLt's best plain GEMM in the same run; checks, then times.
//   nvcc -std=c++20 -O3 --expt-relaxed-constexpr -gencode=arch=compute_90a,code=sm_90a -I. tests/bench/bd_kernel.cu
//        -lcublas -lcublasLt -o bd_kernel && ./bd_kernel [check] [forward] [backward] [f16]
#define BASIS_SPIN_LIMIT 2000000000ull

#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ops/bd_linear/bd_backward_hopper.cuh"
#include "ops/bd_linear/bd_forward_pingpong.cuh"

using namespace basis;
using namespace basis::ops::bd;
using core::bf16;
using core::f16;

static int multiprocessors;

struct Shape {
  int64_t m, d, heads, dh;
  bool front = true;
  int64_t n() const { return heads * dh; }
  int64_t k() const { return d - dh; }
  std::string name() const {
    char text[80];
    snprintf(text, sizeof text, "%ldx%ld, %ldx%ld%s", m, d, heads, dh, front ? "" : " back");
    return text;
  }
};

template <class T>
struct Buffer {
  T* p;
  int64_t n;
  explicit Buffer(int64_t n) : n(n) { CUDA_CHECK(cudaMalloc(&p, n * sizeof(T))); }
  ~Buffer() { cudaFree(p); }
  Buffer(const Buffer&) = delete;
};

template <class T>
__global__ void fill_kernel(T* p, int64_t n, uint64_t seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1342543de82ef95ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull, z = (z ^ z >> 27) * 0x94d049bb133111ebull, z ^= z >> 31;
    float u = 0;  // about normal: four uniforms
    for (int k = 0; k < 4; ++k) u += float(z >> (16 * k) & 0xffff) / 65536 - 0.5f;
    p[i] = core::device_convert<T>(u * 1.732f * scale);
  }
}
template <class T>
void fill(const Buffer<T>& b, uint64_t seed, float scale = 1) {
  fill_kernel<<<1024, 256>>>(b.p, b.n, seed, scale);
  CUDA_CHECK(cudaGetLastError());
}

// sums[0] += (out - ref)^2, sums[1] += ref^2 over every so-manieth row; a warp per element.
template <class T>
__global__ void check_forward(const T* x, const T* c, const T* y, int64_t d, int64_t n, int64_t dh, bool front,
                              int64_t step, int64_t m, double* sums) {
  int64_t row = blockIdx.x * step, k = d - dh;
  if (row >= m) return;
  const T *rest = x + row * d + (front ? dh : 0), *slice = x + row * d + (front ? 0 : k);
  double error = 0, norm = 0;
  for (int64_t j = blockIdx.y * 8 + threadIdx.x / 32; j < n; j += gridDim.y * 8) {
    double s = 0;
    for (int64_t i = threadIdx.x % 32; i < k; i += 32) s += double(core::widen(rest[i])) * core::widen(c[j * k + i]);
    for (int o = 16; o; o /= 2) s += __shfl_xor_sync(~0u, s, o);
    s += core::widen(slice[j % dh]);
    double e = core::widen(y[row * n + j]) - s;
    error += e * e, norm += s * s;
  }
  if (threadIdx.x % 32 == 0) atomicAdd(sums, error), atomicAdd(sums + 1, norm);
}
// The same for dX: sums[0..1] the rest, sums[2..3] the slice. A thread per element.
template <class T>
__global__ void check_backward(const T* dy, const T* c, const T* dx, int64_t d, int64_t n, int64_t dh, bool front,
                               int64_t step, int64_t m, double* sums) {
  int64_t row = blockIdx.x * step, k = d - dh, i = blockIdx.y * 128 + threadIdx.x;
  if (row >= m || i >= d) return;
  bool in_slice = i >= k;  // of the order [rest, slice]
  double s = 0;
  if (in_slice)
    for (int64_t j = i - k; j < n; j += dh) s += core::widen(dy[row * n + j]);
  else
    for (int64_t j = 0; j < n; ++j) s += double(core::widen(dy[row * n + j])) * core::widen(c[j * k + i]);
  int64_t at = in_slice ? (front ? i - k : i) : (front ? i + dh : i);
  double e = core::widen(dx[row * d + at]) - s;
  atomicAdd(sums + 2 * in_slice, e * e), atomicAdd(sums + 2 * in_slice + 1, s * s);
}
template <class T>
__global__ void count_nan(const T* p, int64_t n, unsigned long long* count) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x)
    if (isnan(core::widen(p[i]))) atomicAdd(count, 1ull);
}
template <class T>
long nans(const Buffer<T>& b) {
  Buffer<unsigned long long> count(1);
  CUDA_CHECK(cudaMemset(count.p, 0, 8));
  count_nan<<<1024, 256>>>(b.p, b.n, count.p);
  unsigned long long host = 0;
  CUDA_CHECK(cudaMemcpy(&host, count.p, 8, cudaMemcpyDeviceToHost));
  return long(host);
}

// "error" of each part, or the number of unwritten elements.
template <class T>
std::string verdict(const Buffer<T>& out, const Buffer<double>& sums, int parts) {
  double s[4];
  CUDA_CHECK(cudaMemcpy(s, sums.p, sizeof s, cudaMemcpyDeviceToHost));
  char text[100];
  if (long bad = nans(out)) {
    snprintf(text, sizeof text, "WRONG: %ld NaN", bad);
    return text;
  }
  double e0 = std::sqrt(s[0] / s[1]), e1 = parts > 1 ? std::sqrt(s[2] / s[3]) : 0;
  double limit = std::is_same_v<T, bf16> ? 2.2e-3 : 3e-4;
  snprintf(text, sizeof text, "%s%.1e %.1e", e0 < limit && e1 < limit ? "" : "WRONG: ", e0, e1);
  return text;
}

// --- cuBLASLt: out [rows, cols] row-major ----------------------------------------------------------------------------

static cublasLtHandle_t lt;
static Buffer<char>* workspace;
constexpr size_t kWorkspace = 64 << 20;

struct Algo {  // of its own, because nvcc 13.0 fails on a vector of cuBLASLt's type
  cublasLtMatmulAlgo_t algo;
};

struct Gemm {
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t a, b, c;
  std::vector<Algo> algos;
  // Column-major: C [m, n] = op(A) op(B), the leading dimensions as given.
  Gemm(cudaDataType type, bool ta, bool tb, int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc) {
    cublasOperation_t transposed = CUBLAS_OP_T;
    CUDA_CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    if (ta)
      CUDA_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    if (tb)
      CUDA_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &transposed, sizeof transposed));
    CUDA_CHECK(cublasLtMatrixLayoutCreate(&a, type, ta ? k : m, ta ? m : k, lda));
    CUDA_CHECK(cublasLtMatrixLayoutCreate(&b, type, tb ? n : k, tb ? k : n, ldb));
    CUDA_CHECK(cublasLtMatrixLayoutCreate(&c, type, m, n, ldc));
    cublasLtMatmulPreference_t preference;
    CUDA_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    CUDA_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace,
                                                    sizeof kWorkspace));
    static cublasLtMatmulHeuristicResult_t results[64];
    int found = 0;
    CUDA_CHECK(cublasLtMatmulAlgoGetHeuristic(lt, desc, a, b, c, c, preference, 64, results, &found));
    for (int i = 0; i < found; ++i) algos.push_back(Algo{results[i].algo});
  }
  void run(const void* x, const void* y, void* out, int algo) const {
    float one = 1, zero = 0;
    CUDA_CHECK(cublasLtMatmul(lt, desc, &one, x, a, y, b, &zero, out, c, out, c, &algos[algo].algo, workspace->p,
                              kWorkspace, 0));
  }
};

// --- timing: the candidates take turns; median of `rounds` -----------------------------------------------------------

struct Candidate {
  std::string name;
  std::function<void(int set)> run;
  double ms = 0;
};
void time_all(std::vector<Candidate>& list, int rounds, int sets) {
  std::vector<std::vector<cudaEvent_t>> events(list.size());
  for (auto& e : events) {
    e.resize(2 * rounds);
    for (auto& x : e) CUDA_CHECK(cudaEventCreate(&x));
  }
  for (int r = -2; r < rounds; ++r)
    for (size_t i = 0; i < list.size(); ++i) {
      if (r >= 0) CUDA_CHECK(cudaEventRecord(events[i][2 * r]));
      list[i].run((r + 2) % sets);
      if (r >= 0) CUDA_CHECK(cudaEventRecord(events[i][2 * r + 1]));
    }
  CUDA_CHECK(cudaDeviceSynchronize());
  for (size_t i = 0; i < list.size(); ++i) {
    std::vector<float> ms(rounds);
    for (int r = 0; r < rounds; ++r) CUDA_CHECK(cudaEventElapsedTime(&ms[r], events[i][2 * r], events[i][2 * r + 1]));
    std::sort(ms.begin(), ms.end());
    list[i].ms = ms[rounds / 2];
    for (auto& x : events[i]) cudaEventDestroy(x);
  }
}
// The quickest algorithm of a GEMM: three by turns, then each alone, as the power limit slows down what follows a hot
// kernel.
int best_algorithm(const Gemm& gemm, const std::function<void(int set, int algo)>& run) {
  std::vector<Candidate> all;
  for (size_t i = 0; i < gemm.algos.size(); ++i) all.push_back({std::to_string(i), [=](int set) { run(set, int(i)); }});
  time_all(all, 3, 2);
  std::sort(all.begin(), all.end(), [](auto& x, auto& y) { return x.ms < y.ms; });
  all.resize(std::min<size_t>(3, all.size()));
  for (Candidate& c : all) {
    std::vector<Candidate> alone{c};
    time_all(alone, 15, 2);
    c.ms = alone[0].ms;
  }
  return std::stoi(std::min_element(all.begin(), all.end(), [](auto& x, auto& y) { return x.ms < y.ms; })->name);
}

std::string name_of(const ForwardPlan& p) {
  return p.pingpong ? "ping-pong" : "shared C, skew " + std::to_string(p.skew);
}
std::vector<ForwardPlan> plans(const Shape& s) {
  int k_tiles = int((s.k() + 63) / 64);
  std::vector<ForwardPlan> list;
  if (takes_turns(k_tiles)) list.push_back({.pingpong = true});
  for (int skew : {0, 1, 2}) list.push_back({.stages = plan_forward(k_tiles).stages, .skew = skew});
  return list;
}

template <class T>
struct Data {
  std::vector<std::unique_ptr<Buffer<T>>> x, w, c, y, dx, dw;
  Data(const Shape& s, int sets) {
    for (int i = 0; i < sets; ++i) {
      x.push_back(std::make_unique<Buffer<T>>(s.m * s.d));
      w.push_back(std::make_unique<Buffer<T>>(s.n() * s.d));
      c.push_back(std::make_unique<Buffer<T>>(s.n() * s.k()));
      y.push_back(std::make_unique<Buffer<T>>(s.m * s.n()));
      dx.push_back(std::make_unique<Buffer<T>>(s.m * s.d));
      dw.push_back(std::make_unique<Buffer<T>>(s.n() * s.d));
      fill(*x[i], 6 * i + 1), fill(*w[i], 6 * i + 2, 0.1f), fill(*c[i], 6 * i + 3, 0.1f), fill(*y[i], 6 * i + 4);
    }
  }
};

template <class T>
std::string run_forward_check(const Shape& s, const Data<T>& data, ForwardPlan plan) {
  Buffer<double> sums(4);
  CUDA_CHECK(cudaMemset(sums.p, 0, 32));
  CUDA_CHECK(cudaMemset(data.y[0]->p, 0xff, data.y[0]->n * 2));
  forward_planned<T>(data.x[0]->p, data.c[0]->p, data.y[0]->p, s.m, s.n(), s.d, s.dh, s.front, plan, multiprocessors,
                     0);
  int64_t rows = std::min<int64_t>(s.m, 301), step = s.m / rows;
  check_forward<T>
      <<<dim3(rows, 8), 256>>>(data.x[0]->p, data.c[0]->p, data.y[0]->p, s.d, s.n(), s.dh, s.front, step, s.m, sums.p);
  CUDA_CHECK(cudaDeviceSynchronize());
  return verdict(*data.y[0], sums, 1);
}
template <class T>
std::string run_backward_check(const Shape& s, const Data<T>& data, BackwardPlan plan) {
  Buffer<double> sums(4);
  CUDA_CHECK(cudaMemset(sums.p, 0, 32));
  CUDA_CHECK(cudaMemset(data.dx[0]->p, 0xff, data.dx[0]->n * 2));
  fill(*data.y[0], 77);
  backward_hopper<T>(data.y[0]->p, data.c[0]->p, data.dx[0]->p, s.m, s.n(), s.d, s.dh, s.front, plan, multiprocessors,
                     0);
  int64_t rows = std::min<int64_t>(s.m, 301), step = s.m / rows;
  check_backward<T><<<dim3(rows, (s.d + 127) / 128), 128>>>(data.y[0]->p, data.c[0]->p, data.dx[0]->p, s.d, s.n(), s.dh,
                                                            s.front, step, s.m, sums.p);
  CUDA_CHECK(cudaDeviceSynchronize());
  return verdict(*data.dx[0], sums, 2);
}

template <class T>
void check() {
  int done = 0, wrong = 0;
  auto report = [&](const Shape& s, const std::string& what, const std::string& result) {
    ++done;
    if (result.rfind("WRONG", 0) == 0 && ++wrong <= 12)
      printf("  %s, %s: %s\n", s.name().c_str(), what.c_str(), result.c_str());
  };
  std::vector<Shape> shapes = {{300, 192, 3, 64, true},    {300, 192, 5, 64, false},   {1000, 512, 7, 128, true},
                               {257, 520, 16, 128, false}, {4096, 512, 16, 128, true}, {777, 96, 9, 32, false},
                               {2000, 768, 12, 64, true},  {40, 1024, 16, 64, false},  {5000, 448, 40, 64, true},
                               {200, 512, 300, 128, true}, {70, 448, 600, 64, false},  {60, 416, 1300, 32, true},
                               {3000, 384, 40, 64, true},  {500, 320, 90, 64, false},  {900, 384, 33, 128, true}};
  for (const Shape& s : shapes) {
    Data<T> data(s, 1);
    for (auto plan : plans(s)) report(s, "forward " + name_of(plan), run_forward_check(s, data, plan));
    if (s.dh == 32) continue;
    for (int width : {176, 192, 256})
      for (int cn : {1, 2})
        for (int skew : {0, 1}) {
          int64_t tiles = (s.k() + width - 1) / width;
          if (tiles % cn || tiles < s.dh / 64) continue;
          report(
              s,
              "backward width " + std::to_string(width) + " cn " + std::to_string(cn) + " skew " + std::to_string(skew),
              run_backward_check(s, data, {width, cn, skew}));
        }
  }
  printf("check %s: %d done, %d wrong\n", std::is_same_v<T, bf16> ? "bf16" : "f16", done, wrong);
}

// Each candidate against the dense product, the two by turns.
void compare(Candidate dense, std::vector<Candidate>& list, int rounds, int sets, double flops) {
  for (Candidate& c : list) {
    std::vector<Candidate> pair{dense, c};
    time_all(pair, rounds, sets);
    printf("    %-34s %.4f ms, dense %.4f  %.3fx  %.0f TFLOP/s\n", c.name.c_str(), pair[1].ms, pair[0].ms,
           pair[0].ms / pair[1].ms, flops / pair[1].ms * 1e-9);
  }
}

template <class T>
void bench(const Shape& s, bool forward, bool backward) {
  int sets = s.m * s.n() * 2 > (400 << 20) ? 2 : 4, rounds = s.m * s.n() * 2 > (1 << 30) ? 11 : 31;
  Data<T> t(s, sets);
  cudaDataType type = std::is_same_v<T, bf16> ? CUDA_R_16BF : CUDA_R_16F;
  int64_t m = s.m, n = s.n(), d = s.d, k = s.k(), r0 = s.front ? s.dh : 0;
  double flops = 2.0 * double(m) * double(n);
  printf("%s %s, ideal %.3fx\n", s.name().c_str(), std::is_same_v<T, bf16> ? "bf16" : "f16", double(d) / double(k));
  if (forward) {
    Gemm dense(type, true, false, n, m, d, d, d, n), rest(type, true, false, n, m, k, k, d, n);
    auto run_dense = [&](int i, int a) { dense.run(t.w[i]->p, t.x[i]->p, t.y[i]->p, a); };
    auto run_rest = [&](int i, int a) { rest.run(t.c[i]->p, t.x[i]->p + r0, t.y[i]->p, a); };
    int a = best_algorithm(dense, run_dense), b = best_algorithm(rest, run_rest);
    ForwardPlan chosen = plan_forward(int((k + 63) / 64));
    printf("  forward; chosen: %s, error %s\n", name_of(chosen).c_str(), run_forward_check(s, t, chosen).c_str());
    std::vector<Candidate> list{{"cuBLAS on R alone", [=](int i) { run_rest(i, b); }}};
    for (auto plan : plans(s))
      list.push_back({"bd " + name_of(plan), [=, &t](int i) {
                        forward_planned<T>(t.x[i]->p, t.c[i]->p, t.y[i]->p, m, n, d, s.dh, s.front, plan,
                                           multiprocessors, 0);
                      }});
    compare({"dense", [=](int i) { run_dense(i, a); }}, list, rounds, sets, flops * double(k));
  }
  if (backward) {
    Gemm dx(type, false, false, d, m, n, d, n, d), dw(type, false, true, d, n, m, d, n, d);
    Gemm dc(type, false, true, k, n, m, d, n, k);
    auto run_dx = [&](int i, int a) { dx.run(t.w[i]->p, t.y[i]->p, t.dx[i]->p, a); };
    auto run_dw = [&](int i, int a) { dw.run(t.x[i]->p, t.y[i]->p, t.dw[i]->p, a); };
    auto run_dc = [&](int i, int a) { dc.run(t.x[i]->p + r0, t.y[i]->p, t.dw[i]->p, a); };
    int x = best_algorithm(dx, run_dx), w = best_algorithm(dw, run_dw), c = best_algorithm(dc, run_dc);
    printf("  backward, dX + dW against dX + dC; error %s\n", run_backward_check(s, t, plan_backward(k)).c_str());
    std::vector<Candidate> list;
    for (int width : {176, 192, 256})
      for (int cn : {1, 2})
        for (int skew : {0, 1}) {
          int64_t tiles = (k + width - 1) / width;
          if (tiles % cn || tiles < s.dh / 64) continue;
          BackwardPlan plan{width, cn, skew};
          list.push_back(
              {"bd width " + std::to_string(width) + " cn " + std::to_string(cn) + " skew " + std::to_string(skew),
               [=, &t](int i) {
                 backward_hopper<T>(t.y[i]->p, t.c[i]->p, t.dx[i]->p, m, n, d, s.dh, s.front, plan, multiprocessors, 0);
                 run_dc(i, c);
               }});
        }
    compare({"dense",
             [=](int i) {
               run_dx(i, x);
               run_dw(i, w);
             }},
            list, rounds, sets, 2 * flops * double(k));
  }
  fflush(stdout);
}

int main(int argc, char** argv) try {
  auto has = [&](const char* what) {
    for (int i = 1; i < argc; ++i)
      if (!strcmp(argv[i], what)) return true;
    return false;
  };
  CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  CUDA_CHECK(cublasLtCreate(&lt));
  Buffer<char> space(kWorkspace);
  workspace = &space;
  if (has("check")) check<bf16>(), check<f16>();
  std::vector<Shape> shapes = {{16384, 512, 128, 128}, {65536, 512, 128, 128}, {16384, 512, 16, 128},
                               {32768, 768, 12, 64},   {32768, 1024, 16, 64},  {16384, 2048, 16, 128}};
  if (has("forward") || has("backward"))
    for (const Shape& s : shapes)
      has("f16") ? bench<f16>(s, has("forward"), has("backward")) : bench<bf16>(s, has("forward"), has("backward"));
} catch (const std::exception& e) {
  printf("%s\n", e.what());
  return 1;
}
