// Rows of the forward: N / Dn with the near keys, and for decoding the last ones from q and k.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128;

// A warp per row.
template <class T>
__global__ void finish_kernel(Geometry g, RowSums x, const T* q, const T* k, const T* v, T* o, float* lse,
                              uint8_t* direct) {
  int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= int64_t(g.units) * g.T) return;
  int u = int(row / g.T), i = int(row % g.T), lane = threadIdx.x % 32;
  int tile = i / g.L;
  const float* num = x.sums + row * 2 * g.columns;
  float top = x.shift[int64_t(u) * g.tiles + tile], far = top, sum = 0;
  int low = max(0, i - g.window + 1), high = min(g.last_key(u, i), i + g.window);
  const T* query = q + g.query(u, i);
  auto logit = [&](int j) { return near_logit(query, k + g.key(u, j), g.D, g.scale); };
  for (int j = low + lane; j < high; j += 32) top = fmaxf(top, logit(j));
  top = warp_reduce<Max>(top);
  far = expf(far - top);
  for (int j = low + lane; j < high; j += 32) sum += expf(logit(j) - top);
  sum = warp_reduce<Sum>(sum) + far * x.mass[row];
  float l = top + logf(sum);
  float moved = far * x.bound[int64_t(u) * g.tiles + tile] * (x.excess ? x.excess[row] : 1.0f);
  bool done = moved <= g.largest_ratio * sum && isfinite(l);
  if (lane == 0) lse[row] = l, direct[row] = done ? 0 : kWhole;
  if (!done) return;
  T* out = o + g.output(u, i);
  float inverse = 1 / sum;
  for (int d0 = 0; d0 < g.Dv; d0 += 32) {
    int d = d0 + lane;
    float value = d < g.Dv ? far * inverse * num[d] * (x.unit ? x.unit[int64_t(u) * 2 * g.columns + d] : kUnit) : 0.0f;
    for (int j0 = low; j0 < high; j0 += 32) {
      float p = j0 + lane < high ? expf(logit(j0 + lane) - top) * inverse : 0.0f;
      for (int j = j0; j < min(high, j0 + 32); ++j) {
        float weight = __shfl_sync(0xffffffffu, p, j - j0);
        if (d < g.Dv) value += weight * widen(v[g.value(u, j) + d]);
      }
    }
    if (d < g.Dv) out[d] = device_convert<T>(value);
  }
}

// The last rows, a block for each: 128 keys at a time, with a running maximum.
constexpr int kWidest = 4;
template <class T>
__global__ void last_kernel(Geometry g, const T* q, const T* k, const T* v, int rows, T* o) {
  __shared__ float p[kThreads];
  int u = blockIdx.y, i = g.T - rows + blockIdx.x, end = g.last_key(u, i),
      row_segment = g.causal ? 0 : g.segment_of(u, i);
  T* out = o + ((int64_t(g.batch(u)) * rows + blockIdx.x) * g.H + g.head(u)) * g.Dv;
  for (int c0 = 0; c0 < g.Dv; c0 += kWidest * kThreads) {
    float top = -INFINITY, sum = 0, acc[kWidest] = {};
    for (int j0 = 0; j0 < end; j0 += kThreads) {
      int j = j0 + threadIdx.x;
      float logit = -INFINITY;
      if (j < end) {
        bool is_low = j <= i, near = g.near(i, j);
        int s = g.start(u, is_low ? g.segment_of(u, j) : row_segment), other = s + abs(i - j);
        int query = near ? i : is_low ? other : s, key = near ? j : is_low ? s : other;
        logit = near_logit(q + g.query(u, query), k + g.key(u, key), g.D, g.scale);
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
          acc[w] += kSmall * p[j2 - j0] * widen(v[g.value(u, j2) + d]);
      }
      __syncthreads();
    }
#pragma unroll
    for (int w = 0; w < kWidest; ++w) {
      int d = c0 + w * kThreads + threadIdx.x;
      if (d < g.Dv) out[d] = device_convert<T>(sum > 0 ? acc[w] / sum / kSmall : 0.0f);
    }
  }
}

}  // namespace

template <class T>
void finish_rows(const Geometry& g, const RowSums& x, const T* q, const T* k, const T* v, T* o, float* lse,
                 uint8_t* direct, Device device) {
  launch(finish_kernel<T>, device, ceil_div(int64_t(g.units) * g.T, kThreads / 32), kThreads, g, x, q, k, v, o, lse,
         direct);
}
template <class T>
void last_rows(const Geometry& g, const T* q, const T* k, const T* v, int rows, T* o, Device device) {
  launch_shared(last_kernel<T>, device, dim3(unsigned(rows), unsigned(g.units)), kThreads, 0, g, q, k, v, rows, o);
}

template void finish_rows(const Geometry&, const RowSums&, const float*, const float*, const float*, float*, float*,
                          uint8_t*, Device);
template void finish_rows(const Geometry&, const RowSums&, const bf16*, const bf16*, const bf16*, bf16*, float*,
                          uint8_t*, Device);
template void finish_rows(const Geometry&, const RowSums&, const f16*, const f16*, const f16*, f16*, float*, uint8_t*,
                          Device);
template void last_rows(const Geometry&, const float*, const float*, const float*, int, float*, Device);
template void last_rows(const Geometry&, const bf16*, const bf16*, const bf16*, int, bf16*, Device);
template void last_rows(const Geometry&, const f16*, const f16*, const f16*, int, f16*, Device);

}  // namespace basis::ops::conv_cuda
