// The exchanges of least_error.cpp, all layers and heads at once. B = W T^-1 is held transposed, b [all, dh, d].
#include "core/basic/basic.h"
#include "core/factor/batched.cuh"
#include "core/factor/keys.cuh"

namespace basis::core::factor {
namespace {

constexpr int kThreads = 256;
constexpr int kColumn = 128;     // threads over channels
constexpr int kRounds = 5;       // as on the CPU
constexpr float kWorth = 0.99f;  // as on the CPU

// p [all, d] (+)= squared rows of W P, of their sum; x = W gram [all, dh, d], gram = P P^T.
__global__ void shares_kernel(const float* x, const float* w, float* scratch, float* p, bool first, int dh, int d) {
  int64_t h = blockIdx.x;
  float sum = 0;
  for (int i = threadIdx.x; i < d; i += kThreads) {
    float s = 0;
    for (int j = 0; j < dh; ++j) s += x[(h * dh + j) * d + i] * w[(h * dh + j) * d + i];
    scratch[h * d + i] = s;
    sum += s;
  }
  sum = fmaxf(block_reduce<Sum, kThreads>(sum), 1e-30f);
  for (int i = threadIdx.x; i < d; i += kThreads) p[h * d + i] = (first ? 0 : p[h * d + i]) + scratch[h * d + i] / sum;
}

// taken, g [all, dh]: p of S's rows, the squared columns of B; now [all]: E of each head.
__global__ void now_kernel(const float* p, const float* gram, const int* rows, float* taken, float* g, float* now,
                           int heads, int dh, int d) {
  int64_t h = blockIdx.x;
  float sum = 0;
  for (int j = threadIdx.x; j < dh; j += kThreads) {
    float t = p[h * d + rows[h / heads * dh + j]], square = gram[(h * dh + j) * dh + j];
    taken[h * dh + j] = t, g[h * dh + j] = square;
    sum += t * (2 * square - 1);
  }
  sum = block_reduce<Sum, kThreads>(sum);
  if (threadIdx.x == 0) now[h] = sum;
}

// weighed = B diag(taken), r_i = sum over j of weighed_ij B_ij + p_i.
__global__ void weigh_kernel(const float* b, const float* taken, const float* p, float* weighed, float* r, int dh,
                             int d) {
  int i = blockIdx.x * kColumn + threadIdx.x;
  int64_t h = blockIdx.y;
  if (i >= d) return;
  float sum = p[h * d + i];
  for (int j = 0; j < dh; ++j) {
    int64_t at = (h * dh + j) * d + i;
    float x = b[at], w = x * taken[h * dh + j];
    weighed[at] = w;
    sum += w * x;
  }
  r[h * d + i] = sum;
}

// The best exchange of each task: the smallest sum over heads of E^2 after it.
__global__ void score_kernel(const float* b, const float* cross, const float* r, const float* p, const float* taken,
                             const float* g, const float* now, const uint8_t* open, Key* best, int heads, int dh,
                             int d) {
  int64_t task = blockIdx.y;
  int e = blockIdx.x * kThreads + threadIdx.x, j = e / d, i = e % d;
  Key key = Smallest::identity<Key>();
  if (j < dh && open[task * d + i]) {
    float sum = 0;
    for (int64_t h = task * heads; h < (task + 1) * heads; ++h) {
      int64_t at = (h * dh + j) * d + i;
      float inverse = 1 / b[at];
      float error = inverse * inverse * (2 * r[h * d + i]) * g[h * dh + j] - 4 * cross[at] * inverse +
                    (now[h] + taken[h * dh + j]) - p[h * d + i];
      sum += error * error;
    }
    if (sum == sum) key = smallest_key(sum, uint32_t(i) * uint32_t(dh) + uint32_t(j));
  }
  key = block_reduce<Smallest, kThreads>(key);
  if (threadIdx.x == 0) atomicMin(best + task, key);
}

// Makes it where it pays, or marks the task as done: exchange[task] = {from, to}, {-1, -1} when done. change [all, dh]:
// the row by which B's columns change.
__global__ void settle_kernel(const float* b, const float* now, Key* best, uint8_t* open, int* rows, int2* exchange,
                              float* change, int heads, int dh, int d) {
  int64_t task = blockIdx.x;
  float limit = 0;
  for (int64_t h = task * heads; h < (task + 1) * heads; ++h) limit += now[h] * now[h];
  Key key = best[task];
  bool pays = exchange[task].x >= 0 && key != Smallest::identity<Key>() && value_of(key) < kWorth * limit;
  int to = int(uint32_t(key) / uint32_t(dh)), from = int(uint32_t(key) % uint32_t(dh));
  __syncthreads();
  if (threadIdx.x == 0) {
    best[task] = Smallest::identity<Key>();
    exchange[task] = pays ? make_int2(from, to) : make_int2(-1, -1);
    if (pays) open[task * d + rows[task * dh + from]] = 1, open[task * d + to] = 0, rows[task * dh + from] = to;
  }
  for (int e = threadIdx.x; pays && e < heads * dh; e += kThreads) {
    int64_t h = task * heads + e / dh;
    int j = e % dh;
    float pivot = b[(h * dh + from) * d + to];
    change[h * dh + j] = j == from ? 1 - 1 / pivot : b[(h * dh + j) * d + to] / pivot;
  }
}

__global__ void change_kernel(float* b, const int2* exchange, const float* change, int heads, int dh, int d) {
  int i = blockIdx.x * kColumn + threadIdx.x;
  int64_t h = blockIdx.y;
  int from = exchange[h / heads].x;
  if (i >= d || from < 0) return;
  float column = b[(h * dh + from) * d + i];
  for (int j = 0; j < dh; ++j) b[(h * dh + j) * d + i] -= column * change[h * dh + j];
}

// b [all, dh, d] f32 = (W T^-1)^T
Tensor quotient(const Batch& s, const Tensor& w, const Tensor& w32, const Tensor& rows) {
  int n = s.all(), dh = s.dh, d = s.d;
  Tensor t = gather_t(s, w, rows), inverse = t.empty_like(), ts = addresses(t), inverses = addresses(inverse);
  Tensor pivots = s.empty({n, dh}, DType::i32), info = s.empty({n}, DType::i32);
  auto* pivot = pivots.data<int32_t>();
  CUDA_CHECK(cublasDgetrfBatched(cublas(s.device), dh, pointers<double>(ts), dh, pivot, info.data<int32_t>(), n));
  CUDA_CHECK(cublasDgetriBatched(cublas(s.device), dh, pointers<double>(ts), dh, pivot, pointers<double>(inverses), dh,
                                 info.data<int32_t>(), n));
  Tensor inverse32 = inverse.to(DType::f32), b = w32.empty_like();
  gemm_batched(s.device, CUBLAS_OP_N, CUBLAS_OP_T, d, dh, dh, w32.data<float>(), d, int64_t(dh) * d,
               inverse32.data<float>(), dh, int64_t(dh) * dh, b.data<float>(), d, int64_t(dh) * d, n);
  return b;
}

// p [all, d]
Tensor shares(const Batch& s, const Tensor& w32, const Tensor& partner) {
  int n = s.all(), dh = s.dh, d = s.d, columns = int(partner.size(-1)),
      group = int(partner.size(0) / (int64_t(n) * dh));
  Tensor p = s.empty({n, d}, DType::f32), scratch = p.empty_like(), x = w32.empty_like();
  Tensor gram = s.empty({n, dh, dh}, DType::f64);
  int64_t stride = int64_t(dh) * columns;
  for (int g = 0; g < group; ++g) {
    const double* of = partner.data<double>() + g * stride;
    gemm_batched(s.device, CUBLAS_OP_T, CUBLAS_OP_N, dh, dh, columns, of, columns, group * stride, of, columns,
                 group * stride, gram.data<double>(), dh, int64_t(dh) * dh, n);
    Tensor gram32 = gram.to(DType::f32);
    gemm_batched(s.device, CUBLAS_OP_N, CUBLAS_OP_N, d, dh, dh, w32.data<float>(), d, int64_t(dh) * d,
                 gram32.data<float>(), dh, int64_t(dh) * dh, x.data<float>(), d, int64_t(dh) * d, n);
    launch(shares_kernel, s.device, n, kThreads, x.data<float>(), w32.data<float>(), scratch.data<float>(),
           p.data<float>(), g == 0, dh, d);
  }
  return p;
}

}  // namespace

void exchange_rows(const Batch& s, const Tensor& w, const Tensor& partner, const Tensor& open, const Tensor& rows) {
  int n = s.all(), dh = s.dh, d = s.d;
  int64_t size = int64_t(dh) * d;
  Tensor w32 = w.to(DType::f32), b = quotient(s, w, w32, rows), p = shares(s, w32, partner);
  Tensor gram = s.empty({n, dh, dh}, DType::f32), weighed = b.empty_like(), cross = b.empty_like(), r = p.empty_like();
  Tensor taken = s.empty({n, dh}, DType::f32), g = taken.empty_like(), change = taken.empty_like();
  Tensor now = s.empty({n}, DType::f32);
  Tensor bests = Tensor::full({s.tasks}, -1, DType::i64, s.device);  // ~0 as a Key
  Tensor exchanges = Tensor::full({s.tasks, 2}, 0, DType::i32, s.device);
  auto* best = static_cast<Key*>(bests.raw());
  auto* exchange = static_cast<int2*>(exchanges.raw());
  dim3 grid(unsigned(ceil_div(d, kColumn)), unsigned(n)), scores(unsigned(ceil_div(size, kThreads)), unsigned(s.tasks));
  for (int round = 0; round < kRounds; ++round) {
    gemm_batched(s.device, CUBLAS_OP_T, CUBLAS_OP_N, dh, dh, d, b.data<float>(), d, size, b.data<float>(), d, size,
                 gram.data<float>(), dh, int64_t(dh) * dh, n);
    launch(now_kernel, s.device, n, kThreads, p.data<float>(), gram.data<float>(), rows.data<int32_t>(),
           taken.data<float>(), g.data<float>(), now.data<float>(), s.heads, dh, d);
    launch_shared(weigh_kernel, s.device, grid, kColumn, 0, b.data<float>(), taken.data<float>(), p.data<float>(),
                  weighed.data<float>(), r.data<float>(), dh, d);
    gemm_batched(s.device, CUBLAS_OP_N, CUBLAS_OP_N, d, dh, dh, weighed.data<float>(), d, size, gram.data<float>(), dh,
                 int64_t(dh) * dh, cross.data<float>(), d, size, n);
    launch_shared(score_kernel, s.device, scores, kThreads, 0, b.data<float>(), cross.data<float>(), r.data<float>(),
                  p.data<float>(), taken.data<float>(), g.data<float>(), now.data<float>(), open.data<uint8_t>(), best,
                  s.heads, dh, d);
    launch(settle_kernel, s.device, s.tasks, kThreads, b.data<float>(), now.data<float>(), best, open.data<uint8_t>(),
           rows.data<int32_t>(), exchange, change.data<float>(), s.heads, dh, d);
    if (round + 1 < kRounds)
      launch_shared(change_kernel, s.device, grid, kColumn, 0, b.data<float>(), exchange, change.data<float>(), s.heads,
                    dh, d);
  }
}

}  // namespace basis::core::factor
