// Rows of the backward, and the pairs that do not go through the FFT: near ones, and all of a row done directly. Every
// sum has one owner (a key, a query or a lag), so that no order depends on timing.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kPositions = 512, kSegments = 16;

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

template <class T>
__global__ void rows_kernel(Geometry g, RowTensors<T> x, const float* shift, float* rows, RowGradients out) {
  int64_t row = warp_row(g);
  if (row < 0) return;
  int u = int(row / g.T), i = int(row % g.T), lane = threadIdx.x % 32, ones = 2 * ((g.Dv + 1) / 2);
  const T* dout = x.dout + g.output(u, i);
  float delta = warp_dot(dout, x.o + g.output(u, i), g.Dv), l = x.lse[row];
  bool through = !x.direct[row] && l > -INFINITY;
  float inverse = through ? expf(shift[int64_t(u) * g.tiles + i / g.L] - l) : 0.0f;
  if (lane == 0) out.delta[row] = delta;
  for (int c = lane; c < 2 * g.columns; c += 32)
    rows[row * 2 * g.columns + c] = !through    ? 0.0f
                                    : c < g.Dv  ? inverse * widen(dout[c])
                                    : c == ones ? -inverse * delta
                                                : 0.0f;
}

// A block per head.
__global__ void list_kernel(Geometry g, const uint8_t* direct, int* listed, int* count) {
  __shared__ int warp_count[32], base;
  int u = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) base = 0;
  for (int first = 0; first < g.T; first += blockDim.x) {
    int i = first + threadIdx.x;
    bool on = i < g.T && direct[int64_t(u) * g.T + i];
    unsigned mask = __ballot_sync(0xffffffffu, on);
    __syncthreads();
    if (lane == 0) warp_count[warp] = __popc(mask);
    __syncthreads();
    int before = base + __popc(mask & ((1u << lane) - 1));
    for (int w = 0; w < warp; ++w) before += warp_count[w];
    if (on) listed[int64_t(u) * g.T + before] = i;
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) base = before + on;
  }
  __syncthreads();
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

template <class T>
__global__ void by_key_kernel(Geometry g, RowTensors<T> x, const float* low, const float* up, RowGradients out) {
  int64_t row = warp_row(g);
  if (row < 0) return;
  int u = int(row / g.T), j = int(row % g.T), lane = threadIdx.x % 32;
  if (j >= g.keys(u)) return;
  Pairs<T> pairs{g, x, low, up, u};
  float *dv = out.dv + row * 2 * g.columns, *dk = out.dk + row * g.D;
  auto add_value = [&](int i, float p) {
    const T* dout = x.dout + g.output(u, i);
    for (int d = lane; d < g.Dv; d += 32) dv[d] += p * widen(dout[d]);
  };
  for (int i = g.causal ? j : max(0, j - g.window + 1); i < min(g.T, j + g.window); ++i) {
    float p = pairs.probability(i, j, x.lse[int64_t(u) * g.T + i]);
    float ds = g.scale * pairs.gradient(i, j, p, out.delta[int64_t(u) * g.T + i]);
    add_value(i, p);
    for (int d = lane; d < g.D; d += 32) dk[d] += ds * widen(x.q[g.query(u, i) + d]);
  }
  for (int n = out.count[u] - 1; n >= 0; --n) {
    int i = out.listed[int64_t(u) * g.T + n];
    if (g.causal && i < j) break;
    if (!g.near(i, j)) add_value(i, pairs.probability(i, j, x.lse[int64_t(u) * g.T + i]));
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

template <class T>
__global__ void by_lag_kernel(Geometry g, RowTensors<T> x, Triangle lower, Triangle upper, RowGradients out) {
  int64_t row = warp_row(g);
  if (row < 0) return;
  int u = int(row / g.T), lag = int(row % g.T), keys = g.keys(u);
  if (lag < g.window) return;
  Pairs<T> pairs{g, x, lower.scores, upper.scores, u};
  auto add = [&](const Triangle& t, int i, int j) {
    float l = x.lse[int64_t(u) * g.T + i];
    float ds = pairs.gradient(i, j, pairs.probability(i, j, l), out.delta[int64_t(u) * g.T + i]);
    int r = g.segment_of(u, j <= i ? j : i);
    if (threadIdx.x % 32 == 0) t.du[g.score_row(u, r) + g.start(u, r) + lag] += ds;
  };
  for (int n = out.count[u] - 1; n >= 0; --n) {
    int i = out.listed[int64_t(u) * g.T + n];
    if (g.causal && i < lag) break;
    if (i - lag >= 0 && i - lag < keys) add(lower, i, i - lag);
    if (!g.causal && lag > 0 && i + lag < keys) add(upper, i, i + lag);
  }
}

// into[p] += scale sum_r du[r][p] y[s_r], a block per 64 positions.
template <class T>
__global__ void spread_kernel(Geometry g, Triangle t, const T* y, float* into) {
  extern __shared__ float shared[];
  float *du = shared, *at = shared + kSegments * 64;  // [16][64], [16][D]
  int u = blockIdx.y, p0 = blockIdx.x * 64, lane = threadIdx.x % 32;
  for (int r0 = 0; r0 < g.segments && g.start(u, r0) < min(g.T, p0 + 64); r0 += kSegments) {
    __syncthreads();
    for (int i = threadIdx.x; i < kSegments * 64; i += kThreads) {
      int r = r0 + i / 64, p = p0 + i % 64;
      bool in = r < g.segments && p < g.T;
      du[i] = in ? t.du[g.score_row(u, r) + p] + t.du_low[g.score_row(u, r) + p] : 0.0f;
    }
    for (int i = threadIdx.x; i < kSegments * g.D; i += kThreads) {
      int r = r0 + i / g.D, s = r < g.segments ? g.start(u, r) : g.T;
      at[i] = s < g.T ? widen(y[(t.upper ? g.query(u, s) : g.key(u, s)) + i % g.D]) : 0.0f;
    }
    __syncthreads();
    for (int p = threadIdx.x / 32; p < min(64, g.T - p0); p += kWarps)
      for (int d = lane; d < g.D; d += 32) {
        float sum = 0;
#pragma unroll
        for (int r = 0; r < kSegments; ++r) sum += du[r * 64 + p] * at[r * g.D + d];
        into[(int64_t(u) * g.T + p0 + p) * g.D + d] += g.scale * sum;
      }
  }
}

// partial[u][chunk][r][d] = sum over a chunk of positions of du[r][p] x[p][d].
template <class T>
__global__ void breakpoint_kernel(Geometry g, Triangle t, const T* x, float* partial) {
  __shared__ float du[kSegments][kPositions];
  int u = blockIdx.z, r0 = blockIdx.y * kSegments, p0 = blockIdx.x * kPositions, count = min(kPositions, g.T - p0);
  for (int i = threadIdx.x; i < kSegments * kPositions; i += kThreads) {
    int r = r0 + i / kPositions, p = p0 + i % kPositions;
    bool in = r < g.segments && p < g.T;
    du[i / kPositions][i % kPositions] = in ? t.du[g.score_row(u, r) + p] + t.du_low[g.score_row(u, r) + p] : 0.0f;
  }
  __syncthreads();
  for (int d = threadIdx.x % 32; d < g.D; d += 32) {
    float sum[kSegments / kWarps] = {};
    int first = threadIdx.x / 32 * (kSegments / kWarps);
    for (int p = 0; p < count; ++p) {
      float value = widen(x[(t.upper ? g.key(u, p0 + p) : g.query(u, p0 + p)) + d]);
#pragma unroll
      for (int i = 0; i < kSegments / kWarps; ++i) sum[i] += du[first + i][p] * value;
    }
    for (int i = 0; i < kSegments / kWarps; ++i)
      if (r0 + first + i < g.segments)
        partial[((int64_t(u) * gridDim.x + blockIdx.x) * g.segments + r0 + first + i) * g.D + d] = sum[i];
  }
}

// at[s_r] += scale sum over chunks; a block per segment and head.
__global__ void breakpoint_sum_kernel(Geometry g, const float* partial, int chunks, float* at) {
  int r = blockIdx.x, u = blockIdx.y, s = g.start(u, r);
  if (s >= g.T) return;
  for (int d = threadIdx.x; d < g.D; d += blockDim.x) {
    float sum = 0;
    for (int c = 0; c < chunks; ++c) sum += partial[((int64_t(u) * chunks + c) * g.segments + r) * g.D + d];
    at[(int64_t(u) * g.T + s) * g.D + d] += g.scale * sum;
  }
}

// out[b][p][head / group] = sum over the group of in[u][p][stride], in the order of the heads; 0 beyond the keys.
template <class T>
__global__ void collect_kernel(Geometry g, const float* in, int stride, int channels, int group, bool keys_only,
                               T* out) {
  grid_stride(int64_t(g.units) / group * g.T * channels, [&](int64_t n) {
    int d = int(n % channels);
    int64_t p = n / channels % g.T, u = n / channels / g.T * group;
    float sum = 0;
    for (int h = 0; h < group && (!keys_only || p < g.keys(int(u))); ++h) sum += in[((u + h) * g.T + p) * stride + d];
    int64_t heads = g.H / group, b = (g.first + u) / g.H, head = (g.first + u) % g.H / group;
    out[((b * g.T + p) * heads + head) * channels + d] = device_convert<T>(sum);
  });
}

int64_t warp_blocks(const Geometry& g) { return ceil_div(int64_t(g.units) * g.T, kWarps); }

}  // namespace

template <class T>
void gradient_rows(const Geometry& g, const RowTensors<T>& x, const float* shift, float* rows, const RowGradients& d,
                   Device device) {
  launch(rows_kernel<T>, device, warp_blocks(g), kThreads, g, x, shift, rows, d);
  launch(list_kernel, device, g.units, 1024, g, x.direct, d.listed, d.count);
}

template <class T>
void add_pairs(const Geometry& g, const RowTensors<T>& x, const Triangle& lower, const Triangle* upper,
               const RowGradients& d, Device device) {
  const Triangle& other = upper ? *upper : lower;
  launch(by_key_kernel<T>, device, warp_blocks(g), kThreads, g, x, lower.scores, other.scores, d);
  if (g.window > 0) launch(by_query_kernel<T>, device, warp_blocks(g), kThreads, g, x, d);
  launch(by_lag_kernel<T>, device, warp_blocks(g), kThreads, g, x, lower, other, d);
}

template <class T>
void spread(const Geometry& g, const Triangle& t, const T* q, const T* k, float* into, float* at, Device device) {
  size_t shared = sizeof(float) * size_t(kSegments * (64 + g.D));
  launch_shared(spread_kernel<T>, device, dim3(unsigned(ceil_div(g.T, 64)), unsigned(g.units)), kThreads, shared, g, t,
                t.upper ? q : k, into);
  int chunks = int(ceil_div(g.T, kPositions));
  Tensor partial = Tensor::empty({g.units, chunks, g.segments, g.D}, DType::f32, device);
  launch_shared(breakpoint_kernel<T>, device,
                dim3(unsigned(chunks), unsigned(ceil_div(g.segments, kSegments)), unsigned(g.units)), kThreads, 0, g, t,
                t.upper ? k : q, partial.data<float>());
  launch_shared(breakpoint_sum_kernel, device, dim3(unsigned(g.segments), unsigned(g.units)), 64, 0, g,
                partial.data<float>(), chunks, at);
}

template <class T>
void collect(const Geometry& g, const RowGradients& d, T* dq, T* dk, T* dv, Device device) {
  int group = g.H / g.Hkv;
  auto run = [&](const float* in, int stride, int channels, int heads, bool keys_only, T* out) {
    int64_t n = int64_t(g.units) / heads * g.T * channels;
    launch(collect_kernel<T>, device, grid_for(n, 256), 256, g, in, stride, channels, heads, keys_only, out);
  };
  run(d.dq, g.D, g.D, 1, false, dq);
  run(d.dk, g.D, g.D, group, false, dk);
  run(d.dv, 2 * g.columns, g.Dv, group, true, dv);
}

template void gradient_rows(const Geometry&, const RowTensors<float>&, const float*, float*, const RowGradients&,
                            Device);
template void add_pairs(const Geometry&, const RowTensors<float>&, const Triangle&, const Triangle*,
                        const RowGradients&, Device);
template void spread(const Geometry&, const Triangle&, const float*, const float*, float*, float*, Device);
template void collect(const Geometry&, const RowGradients&, float*, float*, float*, Device);
template void gradient_rows(const Geometry&, const RowTensors<bf16>&, const float*, float*, const RowGradients&,
                            Device);
template void add_pairs(const Geometry&, const RowTensors<bf16>&, const Triangle&, const Triangle*, const RowGradients&,
                        Device);
template void spread(const Geometry&, const Triangle&, const bf16*, const bf16*, float*, float*, Device);
template void collect(const Geometry&, const RowGradients&, bf16*, bf16*, bf16*, Device);
template void gradient_rows(const Geometry&, const RowTensors<f16>&, const float*, float*, const RowGradients&, Device);
template void add_pairs(const Geometry&, const RowTensors<f16>&, const Triangle&, const Triangle*, const RowGradients&,
                        Device);
template void spread(const Geometry&, const Triangle&, const f16*, const f16*, float*, float*, Device);
template void collect(const Geometry&, const RowGradients&, f16*, f16*, f16*, Device);

}  // namespace basis::ops::conv_cuda
