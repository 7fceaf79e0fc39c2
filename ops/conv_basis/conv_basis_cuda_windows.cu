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

// scores[r][p] = scale <x[p], y[s_r]> for 128 positions, one a thread, and up to 16 segments. W: channels per load.
template <class T, int W>
__global__ void __launch_bounds__(kScoreRows)
    score_kernel(Geometry g, bool upper, const T* x, const T* y, float* scores) {
  extern __shared__ __align__(16) float at[];  // [D][16]
  int u = blockIdx.z, r0 = blockIdx.y * kScoreSegments, p0 = blockIdx.x * kScoreRows, p = p0 + threadIdx.x;
  int lane = threadIdx.x % 32, last = min(g.T, p0 + kScoreRows);
  bool begun = lane < kScoreSegments && r0 + lane < g.segments && g.start(u, r0 + lane) < last;
  int used = __popc(__ballot_sync(0xffffffffu, begun));
  if (used == 0) return;
  for (int r = threadIdx.x / 32; r < kScoreSegments; r += kScoreRows / 32) {
    const T* row = r < used ? y + (upper ? g.query(u, g.start(u, r0 + r)) : g.key(u, g.start(u, r0 + r))) : nullptr;
    for (int d = threadIdx.x % 32; d < g.D; d += 32) at[d * kScoreSegments + r] = row ? widen(row[d]) : 0.0f;
  }
  __syncthreads();
  if (p >= g.T) return;
  const T* row = x + (upper ? g.key(u, p) : g.query(u, p));
  float sum[kScoreSegments] = {};
#pragma unroll 4
  for (int d0 = 0; d0 < g.D; d0 += W) {
    Vec<T, W> values = load_vec<W>(row + d0);
#pragma unroll
    for (int w = 0; w < W; ++w) {
      float value = widen(values.v[w]);
#pragma unroll
      for (int r = 0; r < kScoreSegments; r += 4) {
        if (r >= used) break;
        float4 a = *reinterpret_cast<const float4*>(&at[(d0 + w) * kScoreSegments + r]);
        sum[r] += value * a.x, sum[r + 1] += value * a.y, sum[r + 2] += value * a.z, sum[r + 3] += value * a.w;
      }
    }
  }
  bool held = true;
#pragma unroll
  for (int r = 0; r < kScoreSegments; ++r)
    if (r < used) {
      float logit = g.scale * sum[r];
      held = held && isfinite(logit);
      scores[g.score_row(u, r0 + r) + p] = logit;
    }
  for (int r = r0; !held && r < r0 + used; ++r) {
    float& logit = scores[g.score_row(u, r) + p];
    const T* other = y + (upper ? g.query(u, g.start(u, r)) : g.key(u, g.start(u, r)));
    if (!isfinite(logit)) logit = bounded(row, other, g.D, g.scale);
  }
}

__device__ __forceinline__ float factor(float logit, float mu) { return mu == -INFINITY ? 0.0f : expf(logit - mu); }

// A warp per window: its largest logit, then cumulative sums, 32 lags at a time.
__global__ void __launch_bounds__(128) sum_kernel(Geometry g, Triangle t) {
  int u = blockIdx.z, r = blockIdx.y, d = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  int start = g.start(u, r), windows = start < g.T ? g.tiles - start / g.L : 0;
  if (d >= windows) return;
  int base = (d - 1) * g.L + 1, n = g.places(), first = max(t.first_lag, 0) - base, last = g.T - start - base;
  const float* logits = t.scores + g.score_row(u, r) + start + base;
  float mu = -INFINITY, sum = 0;
#pragma unroll 8
  for (int i = lane; i < n; i += 32) mu = fmaxf(mu, i >= first && i < min(last, n - 1) ? logits[i] : -INFINITY);
  mu = warp_reduce<Max>(mu);
  float* out = t.cumulative + g.window_at(u, r, d) * n;
#pragma unroll 4
  for (int i0 = 0; i0 < n; i0 += 32) {
    int i = i0 + lane;
    float a = i >= first && i < min(last, n - 1) ? factor(logits[i], mu) : 0.0f;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      float before = __shfl_up_sync(0xffffffffu, a, offset);
      if (lane >= offset) a += before;
    }
    a += sum;
    if (i < n) out[i] = a;
    sum = __shfl_sync(0xffffffffu, a, 31);
  }
  if (lane == 0) t.mu[g.window_at(u, r, d)] = mu, t.length[g.window_at(u, r, d)] = sum;
}

// Windows d0 .. d0 + 7 of one segment. A thread's column of the transform holds windows d and d + 1, as the real and
// the imaginary part; lag l of window d stands at row l - d L, modulo 2L.
struct WindowBlock {
  int u, r, start, windows, lags, d, first_lag, n;
  __device__ WindowBlock(const Geometry& g, int first)
      : u(blockIdx.z),
        r(blockIdx.y),
        start(g.start(u, r)),
        windows(start < g.T ? g.tiles - start / g.L : 0),
        lags(g.T - start),
        d(2 * (blockIdx.x * kColumns + threadIdx.x % kColumns)),
        first_lag(first),
        n(g.places()) {}
  __device__ bool empty() const { return int(blockIdx.x) * 2 * kColumns >= windows; }
  // The lag at row i of window d + second, or -1.
  __device__ int lag(const Geometry& g, int second, int i) const {
    int l = (d + second) * g.L + (i < g.L ? i : i - n);
    return d + second < windows && i != g.L && l >= first_lag && l < lags ? l : -1;
  }
};

__global__ void __maxnreg__(80) windows_kernel(Geometry g, Triangle t) {
  extern __shared__ float2 x[];
  using F = TileFft<kColumns>;
  WindowBlock w(g, t.first_lag);
  if (w.empty()) return;
  const float* u = t.scores + g.score_row(w.u, w.r) + w.start;  // by lag
  int column = threadIdx.x % kColumns;
  float mu[2];
#pragma unroll
  for (int s = 0; s < 2; ++s) mu[s] = w.d + s < w.windows ? t.mu[g.window_at(w.u, w.r, w.d + s)] : 0.0f;
  F::forward<false>(
      x, g.twiddles, g.log,
      [&](int i) -> float2 {
        int a = w.lag(g, 0, i), b = w.lag(g, 1, i);
        return {a >= 0 ? factor(u[a], mu[0]) : 0.0f, b >= 0 ? factor(u[b], mu[1]) : 0.0f};
      },
      [&](int place, float2 v) { x[F::at(place, column)] = v; });
  __syncthreads();
  for (int f = threadIdx.x / kColumns; f <= g.L; f += blockDim.x / kColumns) {
    float2 p = x[F::at(bit_reverse(f, g.log), column)];
    float2 m = x[F::at(bit_reverse((w.n - f) % w.n, g.log), column)];
    float2* out = t.spectrum + ((int64_t(w.u) * (g.L + 1) + f) * g.segments + w.r) * g.tiles + w.d;
    if (w.d < w.windows) out[0] = {(p.x + m.x) / 2, (p.y - m.y) / 2};
    if (w.d + 1 < w.windows) out[1] = {(p.y + m.y) / 2, (m.x - p.x) / 2};
  }
}

// du[l] = a[l] (inverse transform of the sums)[l] in units of one, the two halves of a window into two arrays.
__global__ void __maxnreg__(80) window_gradient_kernel(Geometry g, Triangle t) {
  extern __shared__ float2 x[];
  WindowBlock w(g, t.first_lag);
  if (w.empty()) return;
  int64_t row = g.score_row(w.u, w.r) + w.start;
  float mu[2];
#pragma unroll
  for (int s = 0; s < 2; ++s) mu[s] = w.d + s < w.windows ? t.mu[g.window_at(w.u, w.r, w.d + s)] : -INFINITY;
  TileFft<kColumns>::inverse<false>(
      x, g.twiddles, g.log,
      [&](int place) -> float2 {
        int f = bit_reverse(place, g.log), stored = f <= g.L ? f : w.n - f;
        const float2* in = t.sums + ((int64_t(w.u) * (g.L + 1) + stored) * g.segments + w.r) * g.tiles + w.d;
        float2 a = w.d < w.windows ? in[0] : float2{0, 0}, b = w.d + 1 < w.windows ? in[1] : float2{0, 0};
        return f > g.L ? float2{a.x + b.y, b.x - a.y} : float2{a.x - b.y, a.y + b.x};
      },
      [&](int i, float2 v) {
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          int lag = w.lag(g, s, i);
          if (lag < 0) continue;
          float du = factor(t.scores[row + lag], mu[s]) * (s ? v.y : v.x) * (kUnit / float(w.n));
          if (i < g.L)
            t.du[row + lag] += du;
          else
            t.du_low[row + lag] = du;
        }
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

// scale[m][t] of a triangle. A block per cell and head.
__global__ void scale_kernel(Geometry g, Triangle t, const float* shift) {
  int m = blockIdx.x, u = blockIdx.y;
  if (m >= g.cells_to[int64_t(u) * (g.tiles + 1) + g.tiles]) return;
  Cell c = g.cell[int64_t(u) * g.cells + m];
  float* out = t.scale + (int64_t(u) * g.cells + m) * g.tiles;
  for (int tile = threadIdx.x; tile < g.tiles; tile += blockDim.x) {
    float mu = tile < c.tile ? -INFINITY : t.mu[g.window_at(u, c.segment, tile - c.tile)];
    out[tile] = mu == -INFINITY ? 0.0f : expf(mu - shift[int64_t(u) * g.tiles + (t.upper ? c.tile : tile)]);
  }
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
  const T *x = t.upper ? k : q, *y = t.upper ? q : k;
  auto kernel = aligned16(g.D, {x}) ? score_kernel<T, kVecWidth<T>> : score_kernel<T, 1>;
  launch_shared(kernel, device, grid, kScoreRows, sizeof(float) * size_t(g.D * kScoreSegments), g, t.upper, x, y,
                t.scores);
}
template void score_segments(const Geometry&, const Triangle&, const float*, const float*, Device);
template void score_segments(const Geometry&, const Triangle&, const bf16*, const bf16*, Device);
template void score_segments(const Geometry&, const Triangle&, const f16*, const f16*, Device);

void sum_windows(const Geometry& g, const Triangle& t, Device device) {
  dim3 grid(unsigned(ceil_div(g.tiles, 4)), unsigned(g.segments), unsigned(g.units));
  launch_shared(sum_kernel, device, grid, 128, 0, g, t);
}
void transform_windows(const Geometry& g, const Triangle& t, Device device) {
  launch_shared(windows_kernel, device, window_grid(g), fft_threads(g), TileFft<kColumns>::shared_bytes(g.log), g, t);
}
void gradient_of_windows(const Geometry& g, const Triangle& t, Device device) {
  launch_shared(window_gradient_kernel, device, window_grid(g), fft_threads(g), TileFft<kColumns>::shared_bytes(g.log),
                g, t);
}
void choose_shift(const Geometry& g, const Triangle& lower, const Triangle* upper, float* shift, float* bound,
                  Device device) {
  launch_shared(shift_kernel, device, dim3(unsigned(g.tiles), unsigned(g.units)), 128, 0, g, lower,
                upper ? *upper : lower, upper != nullptr, shift, bound);
  for (const Triangle* t : {&lower, upper})
    if (t) launch_shared(scale_kernel, device, dim3(unsigned(g.cells), unsigned(g.units)), 64, 0, g, *t, shift);
}

}  // namespace basis::ops::conv_cuda
