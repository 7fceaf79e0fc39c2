// Rows of the backward, and the pairs that do not go through the FFT: near ones, and all of a row done directly. Every
// sum has one owner (a key, a query or a lag), so that no order depends on timing.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

template <class T>
__device__ float warp_dot(const T* x, const T* y, int n) {
  float sum = 0;
  for (int d = threadIdx.x % 32; d < n; d += 32) sum += widen(x[d]) * widen(y[d]);
  return warp_reduce<Sum>(sum);
}

// The row of a warp among [u][T], or -1.
__device__ int64_t warp_row(const Geometry& g) {
  int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  return row < int64_t(g.units) * g.T ? row : -1;
}

// Eight lanes per row, W channels per load.
template <class T, int W>
__global__ void rows_kernel(Geometry g, RowTensors<T> x, const float* shift, RowGradients out) {
  int64_t row = int64_t(blockIdx.x) * (kThreads / 8) + threadIdx.x / 8;
  bool on = row < int64_t(g.units) * g.T;
  int u = on ? int(row / g.T) : 0, i = on ? int(row - int64_t(u) * g.T) : 0, lane = threadIdx.x % 8;
  const T *dout = x.dout + g.output(u, i), *o = x.o + g.output(u, i);
  float delta = 0;
  for (int d = lane * W; on && d < g.Dv; d += 8 * W) {
    Vec<T, W> a = load_vec<W>(dout + d), b = load_vec<W>(o + d);
#pragma unroll
    for (int w = 0; w < W; ++w) delta += widen(a.v[w]) * widen(b.v[w]);
  }
#pragma unroll
  for (int offset = 4; offset; offset >>= 1) delta += __shfl_xor_sync(0xffffffffu, delta, offset);
  if (!on || lane) return;
  float l = x.lse[row];
  bool through = !x.direct[row] && l > -INFINITY;
  out.delta[row] = delta;
  out.factor[row] = through ? expf(shift[int64_t(u) * g.tiles + i / g.L] - l) : 0.0f;
}

// A block per head, 16 rows a thread at a time.
__global__ void __launch_bounds__(1024) list_kernel(Geometry g, const uint8_t* direct, int* listed, int* count) {
  __shared__ int warp_count[32];
  constexpr int several = 16;
  int u = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, base = 0;
  for (int first = 0; first < g.T; first += several * 1024) {
    int at = first + int(threadIdx.x) * several, mine = 0;
    unsigned on = 0;
#pragma unroll
    for (int n = 0; n < several; ++n) on |= (at + n < g.T && direct[int64_t(u) * g.T + at + n] ? 1u : 0u) << n;
    int before = mine = __popc(on);
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      int other = __shfl_up_sync(0xffffffffu, before, offset);
      if (lane >= offset) before += other;
    }
    __syncthreads();
    if (lane == 31) warp_count[warp] = before;
    __syncthreads();
    before += base - mine;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) before += warp_count[w];
      base += warp_count[w];
    }
    for (; on; on &= on - 1) listed[int64_t(u) * g.T + before++] = at + __ffs(int(on)) - 1;
  }
  if (threadIdx.x == 0) count[u] = base;
}

// One pair (i, j) of a warp.
template <class T>
struct Pairs {
  const Geometry& g;
  const RowTensors<T>& x;
  const float *low, *up;
  int u;
  __device__ float probability(int i, int j, float l) const {
    if (g.near(i, j)) return expf(g.scale * warp_dot(x.q + g.query(u, i), x.k + g.key(u, j), g.D) - l);
    int r = g.segment_of(u, j <= i ? j : i);
    return expf((j <= i ? low : up)[g.score_row(u, r) + g.start(u, r) + abs(i - j)] - l);
  }
  __device__ float gradient(int i, int j, float p, float delta) const {
    return p * (warp_dot(x.dout + g.output(u, i), x.v + g.value(u, j), g.Dv) - delta);
  }
};

// Keys, queries and lags from 0 on that have such pairs: all of them with a window, else up to the last row listed.
__device__ int reach(const Geometry& g, const RowGradients& d, int u) {
  if (g.window > 0 || !g.causal) return g.T;
  return d.count[u] ? d.listed[int64_t(u) * g.T + d.count[u] - 1] + 1 : 0;
}

// Fresh: dv holds nothing yet.
template <class T>
__global__ void by_key_kernel(Geometry g, RowTensors<T> x, const float* low, const float* up, bool fresh,
                              RowGradients out) {
  int u = blockIdx.y, lane = threadIdx.x % 32, stop = min(g.keys(u), reach(g, out, u));
  Pairs<T> pairs{g, x, low, up, u};
  for (int j = blockIdx.x * kWarps + threadIdx.x / 32; j < stop; j += gridDim.x * kWarps) {
    int64_t row = int64_t(u) * g.T + j;
    float *dv = out.dv + row * 2 * g.columns, *dk = out.dk + row * g.D;
    if (g.window > 0)
      for (int i = g.causal ? j : max(0, j - g.window + 1); i < min(g.T, j + g.window); ++i) {
        float p = pairs.probability(i, j, x.lse[int64_t(u) * g.T + i]);
        float ds = g.scale * pairs.gradient(i, j, p, out.delta[int64_t(u) * g.T + i]);
        for (int d = lane; d < g.Dv; d += 32) dv[d] += p * widen(x.dout[g.output(u, i) + d]);
        for (int d = lane; d < g.D; d += 32) dk[d] += ds * widen(x.q[g.query(u, i) + d]);
      }
    for (int d0 = 0; d0 < g.Dv; d0 += 64) {
      int d = d0 + lane;
      float sum[2] = {fresh || d >= g.Dv ? 0.0f : dv[d], fresh || d + 32 >= g.Dv ? 0.0f : dv[d + 32]};
#pragma unroll 4
      for (int n = out.count[u] - 1; n >= 0; --n) {
        int i = out.listed[int64_t(u) * g.T + n];
        if (g.causal && i < j) break;
        if (g.near(i, j)) continue;
        float p = pairs.probability(i, j, x.lse[int64_t(u) * g.T + i]);
        const T* dout = x.dout + g.output(u, i);
        if (d < g.Dv) sum[0] += p * widen(dout[d]);
        if (d + 32 < g.Dv) sum[1] += p * widen(dout[d + 32]);
      }
      if (d < g.Dv) dv[d] = sum[0];
      if (d + 32 < g.Dv) dv[d + 32] = sum[1];
    }
  }
}

template <class T>
__global__ void by_query_kernel(Geometry g, RowTensors<T> x, RowGradients out) {
  int64_t row = warp_row(g);
  if (row < 0) return;
  int u = int(row / g.T), i = int(row % g.T), lane = threadIdx.x % 32;
  Pairs<T> pairs{g, x, nullptr, nullptr, u};
  float l = x.lse[row], delta = out.delta[row];
  for (int j = max(0, i - g.window + 1); j < min(g.last_key(u, i), i + g.window); ++j) {
    float ds = g.scale * pairs.gradient(i, j, pairs.probability(i, j, l), delta);
    for (int d = lane; d < g.D; d += 32) out.dq[row * g.D + d] += ds * widen(x.k[g.key(u, j) + d]);
  }
}

// What a warp adds to one lag of a segment's du, written when the segment changes.
struct LagSum {
  int segment = -1;
  float sum = 0;
  __device__ void write(const Geometry& g, const Triangle& t, int u, int lag) const {
    if (segment >= 0 && threadIdx.x % 32 == 0) t.du[g.score_row(u, segment) + g.start(u, segment) + lag] += sum;
  }
};

template <class T>
__global__ void by_lag_kernel(Geometry g, RowTensors<T> x, Triangle lower, Triangle upper, RowGradients out) {
  int u = blockIdx.y, keys = g.keys(u), stop = reach(g, out, u);
  Pairs<T> pairs{g, x, lower.scores, upper.scores, u};
  auto add = [&](const Triangle& t, LagSum& s, int i, int j, int lag) {
    float l = x.lse[int64_t(u) * g.T + i];
    float ds = pairs.gradient(i, j, pairs.probability(i, j, l), out.delta[int64_t(u) * g.T + i]);
    int r = g.segment_of(u, j <= i ? j : i);
    if (r != s.segment) s.write(g, t, u, lag), s = {r, 0};
    s.sum += ds;
  };
  for (int lag = blockIdx.x * kWarps + threadIdx.x / 32; lag < stop; lag += gridDim.x * kWarps) {
    if (lag < g.window) continue;
    LagSum low, up;
#pragma unroll 4
    for (int n = out.count[u] - 1; n >= 0; --n) {
      int i = out.listed[int64_t(u) * g.T + n];
      if (g.causal && i < lag) break;
      if (i - lag >= 0 && i - lag < keys) add(lower, low, i, i - lag, lag);
      if (!g.causal && lag > 0 && i + lag < keys) add(upper, up, i, i + lag, lag);
    }
    low.write(g, lower, u, lag);
    up.write(g, upper, u, lag);
  }
}

int64_t warp_blocks(const Geometry& g) { return ceil_div(int64_t(g.units) * g.T, kWarps); }
dim3 pair_grid(const Geometry& g) {
  return dim3(unsigned(std::min<int64_t>(ceil_div(g.T, kWarps), 512)), unsigned(g.units));
}

}  // namespace

template <class T>
void gradient_rows(const Geometry& g, const RowTensors<T>& x, const float* shift, const RowGradients& d,
                   Device device) {
  auto kernel = aligned16(g.Dv, {x.dout, x.o}) ? rows_kernel<T, kVecWidth<T>> : rows_kernel<T, 1>;
  launch(kernel, device, ceil_div(int64_t(g.units) * g.T, kThreads / 8), kThreads, g, x, shift, d);
  launch(list_kernel, device, g.units, 1024, g, x.direct, d.listed, d.count);
}

template <class T>
void add_values(const Geometry& g, const RowTensors<T>& x, const Triangle& lower, const Triangle* upper, bool fresh,
                const RowGradients& d, Device device) {
  launch_shared(by_key_kernel<T>, device, pair_grid(g), kThreads, 0, g, x, lower.scores,
                upper ? upper->scores : nullptr, fresh, d);
}
template <class T>
void add_scores(const Geometry& g, const RowTensors<T>& x, const Triangle& lower, const Triangle* upper,
                const RowGradients& d, Device device) {
  if (g.window > 0) launch(by_query_kernel<T>, device, warp_blocks(g), kThreads, g, x, d);
  launch_shared(by_lag_kernel<T>, device, pair_grid(g), kThreads, 0, g, x, lower, upper ? *upper : lower, d);
}

#define INSTANTIATE(T)                                                                                           \
  template void gradient_rows(const Geometry&, const RowTensors<T>&, const float*, const RowGradients&, Device); \
  template void add_values(const Geometry&, const RowTensors<T>&, const Triangle&, const Triangle*, bool,        \
                           const RowGradients&, Device);                                                         \
  template void add_scores(const Geometry&, const RowTensors<T>&, const Triangle&, const Triangle*,              \
                           const RowGradients&, Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
