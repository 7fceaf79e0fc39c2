// The Toeplitz factors of a chunk of heads: where time is cut, scores at the breakpoints, spectra of the windows.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kScoreRows = 128, kScoreSegments = 16;

// A block per head. `given` [B H][count] or null: a breakpoint every `spacing`.
__global__ void partition_kernel(Geometry g, const int* given, int count, int spacing, int* starts, int* cells_to,
                                 Cell* cells) {
  int u = blockIdx.x;
  int* s = starts + int64_t(u) * g.segments;
  for (int r = threadIdx.x; r < g.segments; r += blockDim.x) {
    int64_t at = given ? given[int64_t(g.first + u) * count + r] : int64_t(r) * spacing;
    s[r] = at < g.T ? int(at) : g.T;
  }
  __syncthreads();
  for (int t = threadIdx.x; t <= g.tiles; t += blockDim.x) {
    int64_t begin = int64_t(t) * g.L, end = begin + g.L < g.T ? begin + g.L : g.T;
    int inside = 0;  // breakpoints before the tile that cut another one
    for (int r = 1; r < g.segments; ++r) inside += s[r] < begin && s[r] < g.T && s[r] % g.L != 0;
    cells_to[int64_t(u) * (g.tiles + 1) + t] = t + inside;
    if (t == g.tiles) continue;
    Cell* out = cells + int64_t(u) * g.cells + t + inside;
    int r = g.segment_of(u, int(begin));
    for (int64_t at = begin; at < end; ++r) {
      int64_t stop = r + 1 < g.segments && s[r + 1] < end ? s[r + 1] : end;
      *out++ = {t, r, int(at), int(stop)};
      at = stop;
    }
  }
}

// scores[r][p] = scale <x[p], y[s_r]> for a tile of positions and up to 16 segments.
template <class T>
__global__ void score_kernel(Geometry g, bool upper, const T* x, const T* y, float* scores) {
  extern __shared__ float shared[];
  float *rows = shared, *at = shared + kScoreRows * (g.D + 1);  // [positions][D + 1], [D][16]
  int u = blockIdx.z, r0 = blockIdx.y * kScoreSegments, p0 = blockIdx.x * kScoreRows;
  int used = min(kScoreSegments, g.segments - r0), p = p0 + threadIdx.x;
  if (g.start(u, r0) >= min(g.T, p0 + kScoreRows)) return;
  for (int i = threadIdx.x; i < kScoreRows * g.D; i += blockDim.x) {
    int row = i / g.D, d = i % g.D;
    if (p0 + row < g.T) rows[row * (g.D + 1) + d] = widen(x[(upper ? g.key(u, p0 + row) : g.query(u, p0 + row)) + d]);
  }
  for (int i = threadIdx.x; i < kScoreSegments * g.D; i += blockDim.x) {
    int r = i / g.D, d = i % g.D, s = r < used ? g.start(u, r0 + r) : g.T;
    at[d * kScoreSegments + r] = s < g.T ? widen(y[(upper ? g.query(u, s) : g.key(u, s)) + d]) : 0.0f;
  }
  __syncthreads();
  if (p >= g.T) return;
  float sum[kScoreSegments] = {};
  for (int d = 0; d < g.D; ++d) {
    float value = rows[threadIdx.x * (g.D + 1) + d];
#pragma unroll
    for (int r = 0; r < kScoreSegments; ++r) sum[r] += value * at[d * kScoreSegments + r];
  }
#pragma unroll
  for (int r = 0; r < kScoreSegments; ++r)
    if (r < used) scores[g.score_row(u, r0 + r) + p] = g.scale * sum[r];
}

// Windows d0 .. d0 + 7 of one segment; two windows are one complex column. Lag l of window d stands at row l - d L,
// modulo 2L.
struct WindowBlock {
  int u, r, d0, windows, lags, start;
  __device__ WindowBlock(const Geometry& g)
      : u(blockIdx.z), r(blockIdx.y), d0(blockIdx.x * 2 * kColumns), start(g.start(u, r)) {
    windows = start < g.T ? g.tiles - start / g.L : 0;
    lags = g.T - start;
  }
  // Calls f(window d, element of the float view of shared memory, lag) for the lags that exist.
  template <class F>
  __device__ void for_lags(const Geometry& g, int first_lag, F&& f) const {
    int lane = threadIdx.x % (2 * kColumns), d = d0 + lane;
    if (d >= windows) return;
    int n = g.places();
    for (int i = threadIdx.x / (2 * kColumns); i < n; i += blockDim.x / (2 * kColumns)) {
      int lag = d * g.L + (i < g.L ? i : i - n);
      if (i != g.L && lag >= first_lag && lag < lags) f(d, TileFft<kColumns>::at(i, lane / 2) * 2 + lane % 2, lag, i);
    }
  }
};

// The same value for the threads that share a lane (threadIdx.x % 8), reduced over the block.
template <class Op>
__device__ float lane_reduce(float x, float* partial) {
  for (int offset = 16; offset >= 2 * kColumns; offset >>= 1) x = Op::apply(x, __shfl_xor_sync(0xffffffffu, x, offset));
  __syncthreads();
  if (threadIdx.x % 32 < 2 * kColumns) partial[threadIdx.x / 32 * 2 * kColumns + threadIdx.x % 32] = x;
  __syncthreads();
  x = Op::template identity<float>();
  for (int w = 0; w < int(blockDim.x) / 32; ++w)
    x = Op::apply(x, partial[w * 2 * kColumns + threadIdx.x % (2 * kColumns)]);
  return x;
}

__global__ void __launch_bounds__(512) windows_kernel(Geometry g, Triangle t) {
  extern __shared__ float2 x[];
  __shared__ float partial[32 * 2 * kColumns];
  WindowBlock w(g);
  if (w.d0 >= w.windows) return;
  float* flat = reinterpret_cast<float*>(x);
  const float* u = t.scores + g.score_row(w.u, w.r) + w.start;  // by lag
  for (int i = threadIdx.x; i < TileFft<kColumns>::at(g.places() - 1, kColumns); i += blockDim.x) x[i] = {0, 0};
  float mu = -INFINITY, sum = 0;
  w.for_lags(g, t.first_lag, [&](int, int, int lag, int) { mu = fmaxf(mu, u[lag]); });
  mu = lane_reduce<Max>(mu, partial);
  w.for_lags(g, t.first_lag, [&](int, int at, int lag, int) {
    float a = mu == -INFINITY ? 0.0f : expf(u[lag] - mu);
    flat[at] = a;
    sum += a;
  });
  sum = lane_reduce<Sum>(sum, partial);
  int lane = threadIdx.x;
  if (lane < 2 * kColumns && w.d0 + lane < w.windows) {
    t.mu[g.window_at(w.u, w.r, w.d0 + lane)] = mu;
    t.length[g.window_at(w.u, w.r, w.d0 + lane)] = sum;
  }
  __syncthreads();
  TileFft<kColumns>::forward(x, g.twiddles, g.log);
  int n = g.places(), column = threadIdx.x % kColumns, d = w.d0 + 2 * column;
  for (int f = threadIdx.x / kColumns; f <= g.L; f += blockDim.x / kColumns) {
    float2 p = x[TileFft<kColumns>::at(bit_reverse(f, g.log), column)];
    float2 m = x[TileFft<kColumns>::at(bit_reverse((n - f) % n, g.log), column)];
    float2* out = t.spectrum + ((int64_t(w.u) * (g.L + 1) + f) * g.segments + w.r) * g.tiles + d;
    if (d < w.windows) out[0] = {(p.x + m.x) / 2, (p.y - m.y) / 2};
    if (d + 1 < w.windows) out[1] = {(p.y + m.y) / 2, (m.x - p.x) / 2};
  }
}

// du[l] = a[l] (inverse transform of the sums)[l], the two halves of a window into two arrays.
__global__ void __launch_bounds__(512) window_gradient_kernel(Geometry g, Triangle t) {
  extern __shared__ float2 x[];
  WindowBlock w(g);
  if (w.d0 >= w.windows) return;
  int n = g.places(), column = threadIdx.x % kColumns, d = w.d0 + 2 * column;
  for (int f = threadIdx.x / kColumns; f < n; f += blockDim.x / kColumns) {
    int stored = f <= g.L ? f : n - f;
    const float2* in = t.sums + ((int64_t(w.u) * (g.L + 1) + stored) * g.segments + w.r) * g.tiles + d;
    float2 a = d < w.windows ? in[0] : float2{0, 0}, b = d + 1 < w.windows ? in[1] : float2{0, 0};
    if (f > g.L) a.y = -a.y, b.y = -b.y;
    x[TileFft<kColumns>::at(bit_reverse(f, g.log), column)] = {a.x - b.y, a.y + b.x};
  }
  __syncthreads();
  TileFft<kColumns>::inverse(x, g.twiddles, g.log);
  const float* flat = reinterpret_cast<const float*>(x);
  int64_t row = g.score_row(w.u, w.r) + w.start;
  w.for_lags(g, t.first_lag, [&](int window, int at, int lag, int i) {
    float mu = t.mu[g.window_at(w.u, w.r, window)];
    float du = mu == -INFINITY ? 0.0f : expf(t.scores[row + lag] - mu) * flat[at] / float(n);
    (i < g.L ? t.du : t.du_low)[row + lag] = du;
  });
}

// A block per tile and head.
__global__ void shift_kernel(Geometry g, Triangle lower, Triangle upper, bool both, float* shift, float* bound) {
  int tile = blockIdx.x, u = blockIdx.y;
  const Cell* cells = g.cell + int64_t(u) * g.cells;
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  auto for_windows = [&](auto&& f) {
    for (int m = threadIdx.x; m < to[tile + 1]; m += blockDim.x)
      f(lower, g.window_at(u, cells[m].segment, tile - cells[m].tile));
    if (!both) return;
    for (int m = to[tile]; m < to[tile + 1]; ++m)
      for (int t = tile + threadIdx.x; t < g.tiles; t += blockDim.x)
        f(upper, g.window_at(u, cells[m].segment, t - tile));
  };
  float top = -INFINITY, sum = 0;
  for_windows([&](const Triangle& t, int64_t at) { top = fmaxf(top, t.mu[at]); });
  top = block_reduce<Max, 128>(top);
  for_windows([&](const Triangle& t, int64_t at) {
    if (t.mu[at] > -INFINITY) sum += expf(t.mu[at] - top) * t.length[at];
  });
  sum = block_reduce<Sum, 128>(sum);
  if (threadIdx.x == 0) shift[int64_t(u) * g.tiles + tile] = top, bound[int64_t(u) * g.tiles + tile] = sum;
}

dim3 window_grid(const Geometry& g) {
  return dim3(unsigned(ceil_div(g.tiles, 2 * kColumns)), unsigned(g.segments), unsigned(g.units));
}

}  // namespace

void build_partition(const Geometry& g, const int* given, int count, int spacing, int* starts, int* cells_to,
                     Cell* cells, Device device) {
  Geometry filling = g;
  filling.starts = starts;
  launch(partition_kernel, device, g.units, 128, filling, given, count, spacing, starts, cells_to, cells);
}

template <class T>
void score_segments(const Geometry& g, const Triangle& t, const T* q, const T* k, Device device) {
  dim3 grid(unsigned(ceil_div(g.T, kScoreRows)), unsigned(ceil_div(g.segments, kScoreSegments)), unsigned(g.units));
  size_t shared = sizeof(float) * size_t(kScoreRows * (g.D + 1) + g.D * kScoreSegments);
  launch_shared(score_kernel<T>, device, grid, kScoreRows, shared, g, t.upper, t.upper ? k : q, t.upper ? q : k,
                t.scores);
}
template void score_segments(const Geometry&, const Triangle&, const float*, const float*, Device);
template void score_segments(const Geometry&, const Triangle&, const bf16*, const bf16*, Device);
template void score_segments(const Geometry&, const Triangle&, const f16*, const f16*, Device);

void transform_windows(const Geometry& g, const Triangle& t, Device device) {
  launch_shared(windows_kernel, device, window_grid(g), fft_threads(g), TileFft<kColumns>::shared_bytes(g.log) + 64, g,
                t);
}
void gradient_of_windows(const Geometry& g, const Triangle& t, Device device) {
  launch_shared(window_gradient_kernel, device, window_grid(g), fft_threads(g),
                TileFft<kColumns>::shared_bytes(g.log) + 64, g, t);
}
void choose_shift(const Geometry& g, const Triangle& lower, const Triangle* upper, float* shift, float* bound,
                  Device device) {
  launch_shared(shift_kernel, device, dim3(unsigned(g.tiles), unsigned(g.units)), 128, 0, g, lower,
                upper ? *upper : lower, upper != nullptr, shift, bound);
}

}  // namespace basis::ops::conv_cuda
