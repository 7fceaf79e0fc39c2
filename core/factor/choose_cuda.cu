// The greedy choice of rows (basis.cpp), all layers and heads at once: a pivoted Cholesky factorisation of each Q Q^T,
// Q the heads' weights with orthonormal columns, two launches a row for the whole batch.
#include "core/factor/batched.cuh"
#include "core/factor/keys.cuh"

namespace basis::core::factor {
namespace {

constexpr int kThreads = 256;
constexpr int kColumn = 128;             // threads over channels
constexpr float kTiny = 1e-30f;          // as on the CPU
constexpr double kSmallestPivot = 1e-8;  // of the largest, of W^T W; below it the CPU takes Householder's Q

// Q^T = D^-1/2 L^-1 W^T, from x = L^-1 W^T [all, dh, d] and the pivots D on the diagonal of u [all, dh, dh].
__global__ void scale_kernel(const double* x, const double* u, float* q, int* singular, int dh, int d) {
  int64_t h = blockIdx.x;
  const double* pivots = u + h * dh * dh;
  double high = 0, low = INFINITY;
  for (int j = threadIdx.x; j < dh; j += kThreads) {
    double p = pivots[int64_t(j) * dh + j];
    high = Max::apply(high, p), low = -Max::apply(-low, -p);
  }
  high = block_reduce<Max, kThreads>(high), low = -block_reduce<Max, kThreads>(-low);
  if (threadIdx.x == 0) singular[h] = !(low > kSmallestPivot * high);
  for (int e = threadIdx.x; e < dh * d; e += kThreads) {
    int j = e / d;
    q[h * dh * d + e] = float(x[h * dh * d + e] / sqrt(pivots[int64_t(j) * dh + j]));
  }
}

// left [all, d]: what each row has outside those taken, squared; logs its logarithm.
__global__ void start_kernel(const float* q, float* left, float* logs, int dh, int d) {
  int i = blockIdx.x * kColumn + threadIdx.x;
  int64_t h = blockIdx.y;
  if (i >= d) return;
  float sum = 0;
  for (int j = 0; j < dh; ++j) {
    float x = q[(h * dh + j) * d + i];
    sum += x * x;
  }
  left[h * d + i] = sum;
  logs[h * d + i] = logf(fmaxf(sum, kTiny));
}

// One block a task.
__global__ void pick_kernel(const float* left, const float* logs, uint8_t* open, int* rows, float* pivot, int step,
                            int heads, int dh, int d) {
  int64_t task = blockIdx.x;
  Key best = Largest::identity<Key>();
  for (int i = threadIdx.x; i < d; i += kThreads) {
    if (!open[task * d + i]) continue;
    float sum = 0;
    for (int h = 0; h < heads; ++h) sum += logs[(task * heads + h) * d + i];
    best = Largest::apply(best, largest_key(sum / float(heads), uint32_t(i)));
  }
  best = block_reduce<Largest, kThreads>(best);
  auto row = int(index_of_largest(best));
  if (threadIdx.x == 0) rows[task * dh + step] = row, open[task * d + row] = 0;
  for (int h = threadIdx.x; h < heads; h += kThreads) pivot[task * heads + h] = left[(task * heads + h) * d + row];
}

// The factor's next column, f [all, dh, d], for the row picked in `step`.
__global__ void column_kernel(const float* q, float* f, float* left, float* logs, const int* rows, const float* pivot,
                              int step, int heads, int dh, int d) {
  extern __shared__ float shared[];
  float *q_row = shared, *f_row = shared + dh;
  int i = blockIdx.x * kColumn + threadIdx.x;
  int64_t h = blockIdx.y, base = h * dh * d;
  int row = rows[h / heads * dh + step];
  for (int j = threadIdx.x; j < dh; j += kColumn) {
    q_row[j] = q[base + int64_t(j) * d + row];
    if (j < step) f_row[j] = f[base + int64_t(j) * d + row];
  }
  __syncthreads();
  if (i >= d) return;
  float sum = 0, done = 0;
#pragma unroll 8
  for (int j = 0; j < dh; ++j) sum += q[base + int64_t(j) * d + i] * q_row[j];
#pragma unroll 8
  for (int j = 0; j < step; ++j) done += f[base + int64_t(j) * d + i] * f_row[j];
  float column = (sum - done) / sqrtf(fmaxf(pivot[h], kTiny));
  f[base + int64_t(step) * d + i] = column;
  float rest = left[h * d + i] - column * column;
  left[h * d + i] = rest;
  logs[h * d + i] = logf(fmaxf(rest, kTiny));
}

// q [all, dh, d] f32.
Tensor orthonormal(const Batch& b, const Tensor& w, const Tensor& singular) {
  int n = b.all(), dh = b.dh, d = b.d;
  int64_t size = int64_t(dh) * d;
  Tensor gram = b.empty({n, dh, dh}, DType::f64), x = w.clone().view({n, dh, d}), q = b.empty({n, dh, d}, DType::f32);
  gemm_batched(b.device, CUBLAS_OP_T, CUBLAS_OP_N, dh, dh, d, w.data<double>(), d, size, w.data<double>(), d, size,
               gram.data<double>(), dh, int64_t(dh) * dh, n);
  Tensor grams = addresses(gram), xs = addresses(x), info = b.empty({n}, DType::i32);
  double one = 1;  // L D L^T, from LU without exchanges; then W L^-T
  CUDA_CHECK(cublasDgetrfBatched(cublas(b.device), dh, pointers<double>(grams), dh, nullptr, info.data<int32_t>(), n));
  CUDA_CHECK(cublasDtrsmBatched(cublas(b.device), CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_T,
                                CUBLAS_DIAG_UNIT, d, dh, &one, pointers<double>(grams), dh, pointers<double>(xs), d,
                                n));
  launch(scale_kernel, b.device, n, kThreads, x.data<double>(), gram.data<double>(), q.data<float>(),
         singular.data<int32_t>(), dh, d);
  return q;
}

}  // namespace

Tensor choose_rows(const Batch& b, const Tensor& w, const Tensor& partner, const Tensor& open, const Tensor& singular) {
  int n = b.all(), dh = b.dh, d = b.d;
  Tensor q = orthonormal(b, w, singular), f = q.empty_like(), rows = b.empty({b.tasks, dh}, DType::i32);
  Tensor left = b.empty({n, d}, DType::f32), logs = left.empty_like(), pivot = b.empty({n}, DType::f32);
  dim3 grid(unsigned(ceil_div(d, kColumn)), unsigned(n));
  launch_shared(start_kernel, b.device, grid, kColumn, 0, q.data<float>(), left.data<float>(), logs.data<float>(), dh,
                d);
  for (int step = 0; step < dh; ++step) {
    launch(pick_kernel, b.device, b.tasks, kThreads, left.data<float>(), logs.data<float>(), open.data<uint8_t>(),
           rows.data<int32_t>(), pivot.data<float>(), step, b.heads, dh, d);
    if (step + 1 < dh)
      launch_shared(column_kernel, b.device, grid, kColumn, 2 * size_t(dh) * sizeof(float), q.data<float>(),
                    f.data<float>(), left.data<float>(), logs.data<float>(), rows.data<int32_t>(), pivot.data<float>(),
                    step, b.heads, dh, d);
  }
  exchange_rows(b, w, partner, open, rows);
  return rows;
}

}  // namespace basis::core::factor
