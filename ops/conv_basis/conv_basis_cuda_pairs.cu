// Rows of the backward, and the near pairs, which do not go through the FFT. Every sum has one owner (a key or a
// query), so that no order depends on timing.
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
  bool through = !(x.direct[row] & kWhole) && l > -INFINITY;
  out.delta[row] = delta;
  out.factor[row] = through ? expf(shift[int64_t(u) * g.tiles + i / g.L] - l) : 0.0f;
}

// A block per head, 16 rows a thread at a time.
__global__ void __launch_bounds__(1024) list_kernel(Geometry g, const uint8_t* direct, Groups out) {
  __shared__ int warp_count[32];
  int u = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, base = 0, stop = 0;
  int* listed = const_cast<int*>(out.of(g, u));
  for (int first = 0; first < g.T; first += kGroup * 1024) {
    int at = first + int(threadIdx.x) * kGroup;
    uint8_t bits = 0;
#pragma unroll
    for (int n = 0; n < kGroup; ++n) bits |= at + n < g.T ? direct[int64_t(u) * g.T + at + n] : 0;
    if (bits) stop = at + kGroup;
    bool on = bits & kWhole;
    unsigned mask = __ballot_sync(0xffffffffu, on);
    __syncthreads();
    if (lane == 0) warp_count[warp] = __popc(mask);
    __syncthreads();
    int before = base + __popc(mask & ((1u << lane) - 1));
    for (int w = 0; w < 32; ++w) {
      if (w < warp) before += warp_count[w];
      base += warp_count[w];
    }
    if (on) listed[before] = at / kGroup;
  }
  float last = block_reduce<Max, 1024>(float(stop));  // exact below 2^24 rows
  if (threadIdx.x == 0) out.count[u] = base, out.stop[u] = int(last);
}

// One near pair (i, j) of a warp.
template <class T>
struct Pairs {
  const Geometry& g;
  const RowTensors<T>& x;
  int u;
  __device__ float probability(int i, int j, float l) const {
    const T *query = x.q + g.query(u, i), *key = x.k + g.key(u, j);
    return expf(logit_of(warp_dot(query, key, g.D), query, key, g.D, g.scale) - l);
  }
  __device__ float gradient(int i, int j, float p, float delta) const {
    return p * (warp_dot(x.dout + g.output(u, i), x.v + g.value(u, j), g.Dv) - delta);
  }
};

template <class T>
__global__ void by_key_kernel(Geometry g, RowTensors<T> x, RowGradients out) {
  int64_t row = warp_row(g);
  if (row < 0) return;
  int u = int(row / g.T), j = int(row % g.T), lane = threadIdx.x % 32;
  if (j >= g.keys(u)) return;
  Pairs<T> pairs{g, x, u};
  float *dv = out.dv + row * 2 * g.columns, *dk = out.dk + row * g.D;
  for (int i = g.causal ? j : max(0, j - g.window + 1); i < min(g.T, j + g.window); ++i) {
    float p = pairs.probability(i, j, x.lse[int64_t(u) * g.T + i]);
    float ds = g.scale * pairs.gradient(i, j, p, out.delta[int64_t(u) * g.T + i]);
    for (int d = lane; d < g.Dv; d += 32) dv[d] += p * widen(x.dout[g.output(u, i) + d]);
    for (int d = lane; d < g.D; d += 32) dk[d] += ds * widen(x.q[g.query(u, i) + d]);
  }
}

template <class T>
__global__ void by_query_kernel(Geometry g, RowTensors<T> x, RowGradients out) {
  int64_t row = warp_row(g);
  if (row < 0) return;
  int u = int(row / g.T), i = int(row % g.T), lane = threadIdx.x % 32;
  Pairs<T> pairs{g, x, u};
  float l = x.lse[row], delta = out.delta[row];
  for (int j = max(0, i - g.window + 1); j < min(g.last_key(u, i), i + g.window); ++j) {
    float ds = g.scale * pairs.gradient(i, j, pairs.probability(i, j, l), delta);
    for (int d = lane; d < g.D; d += 32) out.dq[row * g.D + d] += ds * widen(x.k[g.key(u, j) + d]);
  }
}

int64_t warp_blocks(const Geometry& g) { return ceil_div(int64_t(g.units) * g.T, kWarps); }

}  // namespace

void list_groups(const Geometry& g, const uint8_t* direct, const Groups& out, Device device) {
  launch(list_kernel, device, g.units, 1024, g, direct, out);
}

template <class T>
void gradient_rows(const Geometry& g, const RowTensors<T>& x, const float* shift, const RowGradients& d,
                   Device device) {
  auto kernel = aligned16(g.Dv, {x.dout, x.o}) ? rows_kernel<T, kVecWidth<T>> : rows_kernel<T, 1>;
  launch(kernel, device, ceil_div(int64_t(g.units) * g.T, kThreads / 8), kThreads, g, x, shift, d);
  list_groups(g, x.direct, d.groups, device);
}

template <class T>
void near_pairs(const Geometry& g, const RowTensors<T>& x, const RowGradients& d, Device device) {
  if (g.window == 0) return;
  launch(by_key_kernel<T>, device, warp_blocks(g), kThreads, g, x, d);
  launch(by_query_kernel<T>, device, warp_blocks(g), kThreads, g, x, d);
}

#define INSTANTIATE(T)                                                                                           \
  template void gradient_rows(const Geometry&, const RowTensors<T>&, const float*, const RowGradients&, Device); \
  template void near_pairs(const Geometry&, const RowTensors<T>&, const RowGradients&, Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
