// T, C = W[R] T^-1 and cond(T), batched over layers and heads: LU of cuBLAS in f64, the extreme eigenvalues of T T^T
// by a kernel of our own (one block a head in shared memory; cuSOLVER's batched routines find all of them).
#include <bit>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>

#include "core/factor/batched.cuh"

namespace basis::core::factor {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;

// to [all, n, m] = from [all, m, columns][:, index[task]] transposed; index [tasks, n].
__global__ void gather_kernel(const double* from, const int* index, double* to, int heads, int m, int columns, int n) {
  __shared__ double tile[kTile][kTile + 1];
  int64_t h = blockIdx.z;
  int i0 = blockIdx.x * kTile, j0 = blockIdx.y * kTile, x = threadIdx.x % kTile, y0 = threadIdx.x / kTile;
  for (int y = y0; y < kTile; y += kThreads / kTile)
    if (i0 + x < n && j0 + y < m) tile[y][x] = from[(h * m + j0 + y) * columns + index[h / heads * n + i0 + x]];
  __syncthreads();
  for (int y = y0; y < kTile; y += kThreads / kTile)
    if (i0 + y < n && j0 + x < m) to[(h * n + i0 + y) * m + j0 + x] = tile[x][y];
}

// c [all, dh, n] = x [all, n, dh] transposed; largest [all], 0 before: max |c|, infinite where c is no number.
__global__ void turn_kernel(const double* x, double* c, unsigned long long* largest, int dh, int n) {
  __shared__ double tile[kTile][kTile + 1];
  int64_t h = blockIdx.z;
  int i0 = blockIdx.x * kTile, j0 = blockIdx.y * kTile, at = threadIdx.x % kTile, y0 = threadIdx.x / kTile;
  double high = 0;
  for (int y = y0; y < kTile; y += kThreads / kTile)
    if (i0 + y < n && j0 + at < dh) {
      double v = x[(h * n + i0 + y) * dh + j0 + at];
      tile[y][at] = v;
      high = isfinite(v) ? fmax(high, fabs(v)) : INFINITY;
    }
  high = block_reduce<Max, kThreads>(high);  // the tile is complete behind its barriers
  if (threadIdx.x == 0) atomicMax(largest + h, __double_as_longlong(high));
  for (int y = y0; y < kTile; y += kThreads / kTile)
    if (i0 + at < n && j0 + y < dh) c[(h * dh + j0 + y) * n + i0 + at] = tile[at][y];
}

// Householder's reduction of the symmetric a [n, n] to the tridiagonal matrix with `diagonal` and `beside` it.
__device__ void tridiagonal(double* a, int n, double* v, double* w, double* diagonal, double* beside) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int k = 0; k + 2 < n; ++k) {
    int m = n - k - 1;
    double* x = a + k * n + k + 1;
    double sum = 0;
    for (int i = threadIdx.x; i < m; i += kThreads) sum += x[i] * x[i];
    double norm = sqrt(block_reduce<Sum, kThreads>(sum)), first = x[0];
    double alpha = first > 0 ? -norm : norm, half = norm * (norm + fabs(first));  // |v|^2 / 2
    if (threadIdx.x == 0) beside[k] = alpha;
    if (half == 0) continue;  // the same in every thread
    for (int i = threadIdx.x; i < m; i += kThreads) v[i] = x[i] - (i == 0 ? alpha : 0);
    __syncthreads();
    double* rest = a + (k + 1) * n + k + 1;
    for (int r = warp; r < m; r += kThreads / 32) {
      double dot = 0;
      for (int c = lane; c < m; c += 32) dot += rest[r * n + c] * v[c];
      dot = warp_reduce<Sum>(dot);
      if (lane == 0) w[r] = dot / half;
    }
    __syncthreads();
    double inner = 0;
    for (int i = threadIdx.x; i < m; i += kThreads) inner += v[i] * w[i];
    inner = block_reduce<Sum, kThreads>(inner) / (2 * half);
    for (int i = threadIdx.x; i < m; i += kThreads) w[i] -= inner * v[i];
    __syncthreads();
    for (int r = warp; r < m; r += kThreads / 32)
      for (int c = lane; c < m; c += 32) rest[r * n + c] -= v[r] * w[c] + w[r] * v[c];
    __syncthreads();
  }
  if (threadIdx.x == 0 && n > 1) beside[n - 2] = a[(n - 2) * n + n - 1];
  for (int i = threadIdx.x; i < n; i += kThreads) diagonal[i] = a[i * n + i];
  __syncthreads();
}

// The index-th eigenvalue, by a warp: 33 intervals a round, Sturm's count at the points between them.
__device__ double eigenvalue(const double* diagonal, const double* beside, int n, int index, double low, double high) {
  int lane = threadIdx.x % 32;
  for (int round = 0; round < 14; ++round) {  // 33^14 > 2^64
    double at = low + (high - low) * (lane + 1) / 33, q = diagonal[0] - at;
    int below = q < 0;
    for (int i = 1; i < n; ++i) {
      double e = beside[i - 1];
      if (fabs(q) < 1e-300) q = -1e-300;
      q = diagonal[i] - at - e * e / q;
      below += q < 0;
    }
    unsigned above = __ballot_sync(0xffffffffu, below > index);
    int first = above ? __ffs(int(above)) - 1 : 32;
    double left = __shfl_sync(0xffffffffu, at, max(first - 1, 0)), right = __shfl_sync(0xffffffffu, at, min(first, 31));
    if (first > 0) low = left;
    if (first < 32) high = right;
  }
  return (low + high) / 2;
}

// One block a head: s = T T^T, in shared memory where it fits.
__global__ void condition_kernel(double* s, double* condition, int n, bool resident) {
  extern __shared__ double shared[];
  double *v = shared, *w = v + n, *diagonal = w + n, *beside = diagonal + n, *a = s + int64_t(blockIdx.x) * n * n;
  if (resident) {
    double* mine = beside + n;
    for (int e = threadIdx.x; e < n * n; e += kThreads) mine[e] = a[e];
    a = mine;
    __syncthreads();
  }
  tridiagonal(a, n, v, w, diagonal, beside);
  double low = INFINITY, high = -INFINITY;  // Gershgorin
  for (int i = threadIdx.x; i < n; i += kThreads) {
    double radius = (i > 0 ? fabs(beside[i - 1]) : 0) + (i + 1 < n ? fabs(beside[i]) : 0);
    low = -Max::apply(-low, radius - diagonal[i]), high = Max::apply(high, diagonal[i] + radius);
  }
  low = -block_reduce<Max, kThreads>(-low), high = block_reduce<Max, kThreads>(high);
  int warp = threadIdx.x / 32;
  if (warp > 1) return;
  double margin = 1e-15 * (high - low);
  double value = eigenvalue(diagonal, beside, n, warp ? n - 1 : 0, low - margin, high + margin);
  __shared__ double found[2];
  if (threadIdx.x % 32 == 0) found[warp] = value;
  asm volatile("bar.sync 1, 64;" ::: "memory");
  if (threadIdx.x == 0) condition[blockIdx.x] = found[0] > 1e-12 * found[1] ? sqrt(found[1] / found[0]) : NAN;
}

Tensor gather(const Batch& b, const Tensor& w, const Tensor& index) {
  int n = int(index.size(1));
  Tensor to = b.empty({b.all(), n, b.dh}, DType::f64);
  dim3 grid(unsigned(ceil_div(n, kTile)), unsigned(ceil_div(b.dh, kTile)), unsigned(b.all()));
  launch_shared(gather_kernel, b.device, grid, kThreads, 0, w.data<double>(), index.data<int32_t>(), to.data<double>(),
                b.heads, b.dh, b.d, n);
  return to;
}

Tensor upload(const Batch& b, const std::vector<BasisTask>& tasks, Tensor BasisTask::*what) {
  const Shape& s = (tasks[0].*what).shape();
  Tensor to = b.empty({b.tasks, s[0], s[1]}, DType::f64);
  for (int i = 0; i < b.tasks; ++i) to.slice(0, i, i + 1).view(s).copy_from((tasks[size_t(i)].*what).contiguous());
  return to.view({b.tasks * s[0], s[1]});
}

template <class T>
Tensor index_tensor(const Batch& b, const std::vector<std::vector<int64_t>>& lists, T) {
  std::vector<T> flat;
  for (const auto& list : lists) flat.insert(flat.end(), list.begin(), list.end());
  return Tensor::from(flat, {b.tasks, int64_t(flat.size()) / b.tasks}, b.device);
}

std::vector<int64_t> others(const std::vector<int64_t>& rows, int64_t d) {
  std::vector<char> in(size_t(d), 0);
  for (int64_t r : rows) in[size_t(r)] = 1;
  std::vector<int64_t> rest;
  for (int64_t i = 0; i < d; ++i)
    if (!in[size_t(i)]) rest.push_back(i);
  return rest;
}

// Empty where a head is singular: for the CPU.
BasisRows chosen(const Batch& b, const std::vector<BasisTask>& tasks, const Tensor& w) {
  BasisRows open(tasks.size(), std::vector<int64_t>(size_t(b.d), 1)), rows(tasks.size());
  for (size_t i = 0; i < tasks.size(); ++i)
    for (int64_t channel : tasks[i].taken) open[i][size_t(channel)] = 0;
  Tensor singular = b.empty({b.all()}, DType::i32);
  Tensor on_device =
      choose_rows(b, w, upload(b, tasks, &BasisTask::partner), index_tensor(b, open, uint8_t{}), singular);
  auto flat = on_device.to_vector<int64_t>();
  auto flags = singular.to_vector<int64_t>();
  for (int64_t i = 0; i < b.tasks; ++i) {
    bool good = true;
    for (int64_t h = 0; h < b.heads; ++h) good &= !flags[size_t(i * b.heads + h)];
    if (!good) continue;
    const std::vector<int64_t>& taken = tasks[size_t(i)].taken;
    if (b.d - int64_t(taken.size()) == b.dh)
      rows[size_t(i)] = others(taken, b.d);  // no choice
    else
      rows[size_t(i)].assign(flat.begin() + i * b.dh, flat.begin() + (i + 1) * b.dh);
  }
  return rows;
}

}  // namespace

cublasHandle_t cublas(Device device) {
  static std::mutex mutex;
  static std::map<int, cublasHandle_t> handles;
  cudaStream_t stream = cuda_stream(device);
  std::lock_guard lock(mutex);
  auto [it, fresh] = handles.try_emplace(device.index, nullptr);
  if (fresh) CUDA_CHECK(cublasCreate(&it->second));
  CUDA_CHECK(cublasSetStream(it->second, stream));
  return it->second;
}

Tensor addresses(const Tensor& x) {
  std::vector<int64_t> list;
  int64_t step = x.bytes() / x.size(0);
  for (int64_t i = 0; i < x.size(0); ++i) list.push_back(reinterpret_cast<int64_t>(x.raw()) + i * step);
  return Tensor::from(list, {x.size(0)}, x.device());
}

Tensor gather_t(const Batch& b, const Tensor& w, const Tensor& rows) { return gather(b, w, rows); }

Tensor conditions(const Batch& b, const Tensor& t) {
  int n = b.dh;
  int64_t size = int64_t(n) * n;
  Tensor s = t.empty_like(), condition = b.empty({b.all()}, DType::f64);
  gemm_batched(b.device, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, t.data<double>(), n, size, t.data<double>(), n, size,
               s.data<double>(), n, size, b.all());
  size_t vectors = 4 * size_t(n) * sizeof(double), matrix = size_t(size) * sizeof(double);
  bool resident = vectors + matrix <= 220 * 1024;  // sm_90: 227 KiB a block
  launch_shared(condition_kernel, b.device, dim3(unsigned(b.all())), kThreads, vectors + (resident ? matrix : 0),
                s.data<double>(), condition.data<double>(), n, resident);
  return condition;
}

namespace {

// c [all, dh, d - dh]; largest [all] i64: the bits of a double.
std::pair<Tensor, Tensor> solve(const Batch& b, const Tensor& w, const Tensor& t, const Tensor& rest) {
  int n = b.all(), beside = b.d - b.dh;
  Tensor lu = t.clone(), x = gather(b, w, rest), lus = addresses(lu), xs = addresses(x);
  Tensor pivots = b.empty({n, b.dh}, DType::i32), info = b.empty({n}, DType::i32);
  auto* pivot = pivots.data<int32_t>();
  int status = 0;
  CUDA_CHECK(cublasDgetrfBatched(cublas(b.device), b.dh, pointers<double>(lus), b.dh, pivot, info.data<int32_t>(), n));
  CUDA_CHECK(cublasDgetrsBatched(cublas(b.device), CUBLAS_OP_N, b.dh, beside, pointers<double>(lus), b.dh, pivot,
                                 pointers<double>(xs), b.dh, &status, n));  // T^T X = W[R]^T, its columns in rows
  Tensor c = b.empty({n, b.dh, beside}, DType::f64), largest = Tensor::full({n}, 0, DType::i64, b.device);
  dim3 grid(unsigned(ceil_div(beside, kTile)), unsigned(ceil_div(b.dh, kTile)), unsigned(n));
  launch_shared(turn_kernel, b.device, grid, kThreads, 0, x.data<double>(), c.data<double>(),
                static_cast<unsigned long long*>(largest.raw()), b.dh, beside);
  return {c, largest};
}

void decompose_cuda(const std::vector<BasisTask>& tasks, const BasisRows& given, int64_t head_dim, Device device,
                    std::vector<BasisFactors>& factors) {
  int64_t heads = tasks[0].weight.size(0) / head_dim;
  Batch b{int(tasks.size()), int(heads), int(head_dim), int(tasks[0].weight.size(1)), device};
  Tensor w = upload(b, tasks, &BasisTask::weight);
  BasisRows rows = given[0].empty() ? chosen(b, tasks, w) : given, used = rows, rest;
  for (auto& list : used) {
    for (int64_t i = int64_t(list.size()); i < b.dh; ++i) list.push_back(i);  // a place holder, thrown away
    rest.push_back(others(list, b.d));
  }
  Tensor t = gather_t(b, w, index_tensor(b, used, int32_t{})), condition = conditions(b, t), c, largest;
  if (b.d > b.dh) std::tie(c, largest) = solve(b, w, t, index_tensor(b, rest, int32_t{}));
  auto condition_of = condition.to_vector<double>();
  auto bits = largest ? largest.to_vector<int64_t>() : std::vector<int64_t>(size_t(b.all()));
  for (int64_t i = 0; i < b.tasks; ++i) {
    BasisFactors& f = factors[size_t(i)];
    f.rows = rows[size_t(i)];
    if (f.rows.empty()) continue;
    f.rest = rest[size_t(i)];
    f.t.copy_from(t.slice(0, i * heads, (i + 1) * heads));
    if (c) f.c.view({heads, b.dh, b.d - b.dh}).copy_from(c.slice(0, i * heads, (i + 1) * heads));
    for (int64_t h = i * heads; h < (i + 1) * heads; ++h)
      f.heads.push_back({condition_of[size_t(h)], std::bit_cast<double>(bits[size_t(h)])});
  }
}

REGISTER_KERNEL(decompose_kernel, cuda, f64, decompose_cuda)

}  // namespace
}  // namespace basis::core::factor
