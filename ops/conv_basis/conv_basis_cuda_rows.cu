// Rows of the forward: N / Dn with the near keys, and rows evaluated one by one.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
__device__ float dot(const T* x, const T* y, int n) {
  float sum = 0;
  for (int d = 0; d < n; ++d) sum += widen(x[d]) * widen(y[d]);
  return sum;
}

// A warp per row.
template <class T>
__global__ void finish_kernel(Geometry g, const float* sums, const float* mass, const float* shift, const float* bound,
                              const T* q, const T* k, const T* v, T* o, float* lse, uint8_t* direct) {
  int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= int64_t(g.units) * g.T) return;
  int u = int(row / g.T), i = int(row % g.T), lane = threadIdx.x % 32;
  int tile = i / g.L;
  const float* num = sums + row * 2 * g.columns;
  float top = shift[int64_t(u) * g.tiles + tile], far = top, sum = 0;
  int low = max(0, i - g.window + 1), high = min(g.last_key(u, i), i + g.window);
  const T* query = q + g.query(u, i);
  for (int j = low + lane; j < high; j += 32) top = fmaxf(top, g.scale * dot(query, k + g.key(u, j), g.D));
  top = warp_reduce<Max>(top);
  far = expf(far - top);
  for (int j = low + lane; j < high; j += 32) sum += expf(g.scale * dot(query, k + g.key(u, j), g.D) - top);
  sum = warp_reduce<Sum>(sum) + far * mass[row];
  float l = top + logf(sum);
  bool done = far * bound[int64_t(u) * g.tiles + tile] <= g.largest_ratio * sum && isfinite(l);
  if (lane == 0) lse[row] = l, direct[row] = !done;
  if (!done) return;
  T* out = o + g.output(u, i);
  float inverse = 1 / sum;
  for (int d0 = 0; d0 < g.Dv; d0 += 32) {
    int d = d0 + lane;
    float value = d < g.Dv ? far * inverse * num[d] * kUnit : 0.0f;
    for (int j0 = low; j0 < high; j0 += 32) {
      float p = j0 + lane < high ? expf(g.scale * dot(query, k + g.key(u, j0 + lane), g.D) - top) * inverse : 0.0f;
      for (int j = j0; j < min(high, j0 + 32); ++j) {
        float weight = __shfl_sync(0xffffffffu, p, j - j0);
        if (d < g.Dv) value += weight * widen(v[g.value(u, j) + d]);
      }
    }
    if (d < g.Dv) out[d] = device_convert<T>(value);
  }
}

// Each block looks at up to 64 rows far apart, since rows to be done lie close together; one row at a time, 128 keys at
// a time, with a running maximum.
constexpr int kRowsOfBlock = 64, kWidest = 4;
template <class T>
__global__ void direct_kernel(Geometry g, const float* low, const float* up, const T* q, const T* k, const T* v,
                              int rows, T* o, float* lse, const uint8_t* direct) {
  __shared__ float p[kThreads];
  __shared__ unsigned flagged[2];
  int u = blockIdx.y, begin = rows ? g.T - rows + blockIdx.x : blockIdx.x, step = gridDim.x;
  if (threadIdx.x < kRowsOfBlock) {
    int64_t i = begin + int64_t(threadIdx.x) * step;
    bool on = rows ? threadIdx.x == 0 : i < g.T && direct[int64_t(u) * g.T + i];
    unsigned mask = __ballot_sync(0xffffffffu, on);
    if (threadIdx.x % 32 == 0) flagged[threadIdx.x / 32] = mask;
  }
  __syncthreads();
  for (unsigned long long left = flagged[0] | (unsigned long long)flagged[1] << 32; left; left &= left - 1) {
    int i = begin + (__ffsll((long long)left) - 1) * step;
    int end = g.last_key(u, i), row_segment = g.causal ? 0 : g.segment_of(u, i);
    int64_t at =
        rows ? ((int64_t(g.batch(u)) * rows + i - begin + blockIdx.x) * g.H + g.head(u)) * g.Dv : g.output(u, i);
    float top = -INFINITY, sum = 0;
    for (int c0 = 0; c0 == 0 || c0 < g.Dv; c0 += kWidest * kThreads) {
      float acc[kWidest] = {};
      top = -INFINITY, sum = 0;
      for (int j0 = 0; j0 < end; j0 += kThreads) {
        int j = j0 + threadIdx.x;
        float logit = -INFINITY;
        if (j < end) {
          bool is_low = j <= i;
          int r = is_low ? g.segment_of(u, j) : row_segment, s = g.start(u, r), other = s + abs(i - j);
          if (g.near(i, j))
            logit = g.scale * dot(q + g.query(u, i), k + g.key(u, j), g.D);
          else if (low)
            logit = (is_low ? low : up)[g.score_row(u, r) + other];
          else
            logit = g.scale * dot(q + g.query(u, is_low ? other : s), k + g.key(u, is_low ? s : other), g.D);
        }
        float now = fmaxf(top, block_reduce<Max, kThreads>(logit)), fade = expf(top - now);
        if (now == -INFINITY) fade = 1, logit = -INFINITY;
        p[threadIdx.x] = logit == -INFINITY ? 0.0f : expf(logit - now);
        sum = sum * fade + block_reduce<Sum, kThreads>(p[threadIdx.x]);
        __syncthreads();
        top = now;
#pragma unroll
        for (int w = 0; w < kWidest; ++w) {
          int d = c0 + w * kThreads + threadIdx.x;
          if (d >= g.Dv) break;
          acc[w] *= fade;
          for (int j2 = j0; j2 < min(end, j0 + kThreads); ++j2)
            acc[w] += p[j2 - j0] * (widen(v[g.value(u, j2) + d]) / kUnit);
        }
        __syncthreads();
      }
#pragma unroll
      for (int w = 0; w < kWidest; ++w) {
        int d = c0 + w * kThreads + threadIdx.x;
        if (d < g.Dv) o[at + d] = device_convert<T>(sum > 0 ? acc[w] / sum * kUnit : 0.0f);
      }
    }
    if (lse && threadIdx.x == 0) lse[int64_t(u) * g.T + i] = top + logf(sum);
  }
}

}  // namespace

template <class T>
void finish_rows(const Geometry& g, const float* sums, const float* mass, const float* shift, const float* bound,
                 const T* q, const T* k, const T* v, T* o, float* lse, uint8_t* direct, Device device) {
  launch(finish_kernel<T>, device, ceil_div(int64_t(g.units) * g.T, kThreads / 32), kThreads, g, sums, mass, shift,
         bound, q, k, v, o, lse, direct);
}
template <class T>
void direct_rows(const Geometry& g, const float* low, const float* up, const T* q, const T* k, const T* v, int rows,
                 T* o, float* lse, const uint8_t* direct, Device device) {
  dim3 grid(unsigned(rows ? rows : ceil_div(g.T, kRowsOfBlock)), unsigned(g.units));
  launch_shared(direct_kernel<T>, device, grid, kThreads, 0, g, low, up, q, k, v, rows, o, lse, direct);
}

template void finish_rows(const Geometry&, const float*, const float*, const float*, const float*, const float*,
                          const float*, const float*, float*, float*, uint8_t*, Device);
template void finish_rows(const Geometry&, const float*, const float*, const float*, const float*, const bf16*,
                          const bf16*, const bf16*, bf16*, float*, uint8_t*, Device);
template void finish_rows(const Geometry&, const float*, const float*, const float*, const float*, const f16*,
                          const f16*, const f16*, f16*, float*, uint8_t*, Device);
template void direct_rows(const Geometry&, const float*, const float*, const float*, const float*, const float*, int,
                          float*, float*, const uint8_t*, Device);
template void direct_rows(const Geometry&, const float*, const float*, const bf16*, const bf16*, const bf16*, int,
                          bf16*, float*, const uint8_t*, Device);
template void direct_rows(const Geometry&, const float*, const float*, const f16*, const f16*, const f16*, int, f16*,
                          float*, const uint8_t*, Device);

}  // namespace basis::ops::conv_cuda
