// du of what does not go through the FFT, by tiles of 128 lags, each owned by one block that goes through the rows in
// order.
#include "ops/conv_basis/conv_basis_cuda_direct.cuh"

namespace basis::ops::conv_cuda {
namespace {

// du[lag] += sum of ds(i, j) = p(i, j) (<do_i, v_j> - delta_i) over the rows i that meet a key of the segment (upper
// triangle: rows of the segment that meet a key) at this lag. A block per 128 lags goes through blocks of 64 rows, 16
// rows and 64 lags a warp: with the 79 keys that these meet, <do, v> is a product of matrices. A thread's elements keep
// their lags from one block of rows to the next, so the sums down the diagonals wait until the segment changes.
constexpr int kScoreThreads = 256, kLags = 128, kStaged = kLags + kSide, kTiles = 10;  // tiles of 8 keys a warp
constexpr size_t kScoreShared = (kStaged + kSide) * kRowStride * sizeof(float);
static_assert(kScoreShared >= 8 * kGroup * (kSide + 1) * sizeof(float));

template <bool Upper, bool Exact, class T>
struct Scores {
  const Geometry& g;
  const RowTensors<T>& x;
  const Triangle& t;
  const float* all_delta;      // [u][T]
  float* shared;               // [192 + 64][72]: values of keys, gradients of rows
  float *lse, *delta, *logit;  // [64], [64], [128] in shared memory
  int* segment;                // [192] in shared memory: of the staged keys, or upper: of the rows
  int u, l0;
  int current = -1;
  float acc[kTiles][4] = {};

  // This warp's rows and lags.
  __device__ int part() const { return threadIdx.x / 32 % kSideGroups; }
  __device__ int half() const { return threadIdx.x / 32 / kSideGroups; }
  // Lag of element e of tile n, from this warp's first one on; outside of [0, 64) it is another warp's.
  __device__ int lag_of(int n, int e) const {
    int a = threadIdx.x % 32 / 4 + e / 2 * 8, b = n * 8 + 2 * (threadIdx.x % 4) + e % 2;
    return Upper ? b - a : a - b + kSide - 1;
  }
  __device__ void flush() {  // all threads
    __syncthreads();
    if (current < 0) return;
    int warp = threadIdx.x / 32, r = threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int lag = lag_of(n, e);
        if (lag >= 0 && lag < kSide) shared[(warp * kGroup + r + e / 2 * 8) * (kSide + 1) + lag] = acc[n][e];
        acc[n][e] = 0;
      }
    __syncthreads();
    int lag = l0 + int(threadIdx.x), start = g.start(u, current);
    if (threadIdx.x < kLags && start + lag < g.T) {
      const float* from = shared + int(threadIdx.x) / kSide * kSide * (kSide + 1) + int(threadIdx.x) % kSide;
      float sum = 0;
#pragma unroll 8
      for (int a = 0; a < kSide; ++a) sum += from[a * (kSide + 1)];
      t.du[g.score_row(u, current) + start + lag] += sum;
    }
    __syncthreads();
  }

  // Rows [i0, i0 + 64), of which groups `active`, before row `stop`; keys [begin, end).
  template <bool Edges>
  __device__ void add(bool four, int i0, int stop, unsigned active, int begin, int end) {
    int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4, key0 = Upper ? i0 + l0 : i0 - l0 - kLags + 1;
    if (max(begin, key0) >= min(end, key0 + kStaged)) return;
    bool mine = active >> part() & 1;
    int ahead = part() * kGroup + (Upper ? half() : 1 - half()) * kSide;  // this warp's first key among the staged
    float *value = shared, *dout = shared + kStaged * kRowStride;
    __syncthreads();
    if (threadIdx.x < kSide) {
      int i = i0 + int(threadIdx.x);
      lse[threadIdx.x] = i < stop ? row_lse<Edges>(g, x, u, i) : INFINITY;
      delta[threadIdx.x] = i < g.T ? all_delta[int64_t(u) * g.T + i] : 0.0f;
    }
    if (threadIdx.x < kStaged) {
      int at = Upper ? i0 + int(threadIdx.x) : key0 + int(threadIdx.x);
      segment[threadIdx.x] = at >= 0 && at < g.T ? g.segment_of(u, at) : -1;
    }
    float dp[kTiles][4] = {};
    for (int d0 = 0; d0 < g.Dv; d0 += kSide) {
      if (d0) __syncthreads();
      stage<kScoreThreads, T>(g, four, value, kStaged, d0, [&](int s) {
        return key0 + s >= begin && key0 + s < end ? x.v + g.value(u, key0 + s) : nullptr;
      });
      stage<kScoreThreads, T>(g, four, dout, kSide, d0,
                              [&](int s) { return i0 + s < g.T ? x.dout + g.output(u, i0 + s) : nullptr; });
      __syncthreads();
      if (!mine) continue;
#pragma unroll 2
      for (int m = 0; m < kSide; m += 8) {  // channels m + 2c and m + 2c + 1 stand for columns c and c + 4
        const float* from = &dout[(part() * kGroup + r) * kRowStride + m + 2 * c];
        float2 a0 = *reinterpret_cast<const float2*>(from),
               a1 = *reinterpret_cast<const float2*>(from + 8 * kRowStride);
        float rows[4] = {a0.x, a1.x, a0.y, a1.y};
        tf32::Split<4, Exact> a(rows);
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
          float2 y = *reinterpret_cast<const float2*>(&value[(ahead + k * 8 + r) * kRowStride + m + 2 * c]);
          float b[2] = {y.x, y.y};
          tf32::mma(dp[k], a, tf32::Split<2, Exact>(b));
        }
      }
    }
    // The segments that these pairs belong to, in order.
    int low = Upper ? i0 : max(begin, key0), high = (Upper ? min(g.T, i0 + kSide) : min(end, key0 + kStaged)) - 1;
    int base = Upper ? i0 : key0, last = segment[high - base];
    for (int s = segment[low - base]; s <= last; ++s) {
      if (s != current) {
        flush();
        current = s;
        int at = g.start(u, s) + l0 + int(threadIdx.x);
        if (threadIdx.x < kLags) logit[threadIdx.x] = at < g.T ? t.scores[g.score_row(u, s) + at] : -INFINITY;
        __syncthreads();
      }
      if (!mine) continue;
#pragma unroll
      for (int k = 0; k < kTiles; ++k)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int lag = lag_of(k, e), a = part() * kGroup + r + e / 2 * 8, at = ahead + k * 8 + 2 * c + e % 2,
              j = key0 + at;
          bool on = lag >= 0 && lag < kSide && j >= begin && j < end && l0 + half() * kSide + lag >= t.first_lag;
          if (!on || segment[Upper ? a : at] != s) continue;
          acc[k][e] += exponential<Exact>(logit[half() * kSide + lag] - lse[a]) * (dp[k][e] - delta[a]);
        }
    }
  }
};

// Edges: a block per 128 lags below 2L and segment, for the tiles of whose edges it is the last segment. Else: for
// whole rows, all segments.
template <bool Edges, bool Upper, bool Exact, class T>
__global__ void __launch_bounds__(kScoreThreads, Exact ? 1 : 2)
    scores_kernel(Geometry g, RowTensors<T> x, Triangle t, bool four, RowGradients out) {
  extern __shared__ __align__(16) float shared[];
  __shared__ int segment[kStaged];
  __shared__ float lse[kSide], delta[kSide], logit[kLags];
  int u = blockIdx.y, l0 = blockIdx.x * kLags, count = out.groups.count[u], keys = g.keys(u);
  Scores<Upper, Exact, T> scores{g, x, t, out.delta, shared, lse, delta, logit, segment, u, l0};
  if constexpr (Edges) {
    int r = blockIdx.z, begin = g.start(u, r), end = r + 1 < g.segments ? g.start(u, r + 1) : g.T;
    if (begin >= end) return;
    for (int tile = begin / g.L + 1; tile <= min(g.tiles - 1, (end - 1) / g.L + 1); ++tile) {
      const Cell& cell = g.edge(u, tile);
      if (!(x.direct[int64_t(u) * g.T + tile * g.L] & kEdge) || cell.segment != r) continue;
      for (int i0 = tile * g.L; i0 < min(g.T, (tile + 1) * g.L); i0 += kSide)
        scores.template add<true>(four, i0, (tile + 1) * g.L, ~0u, cell.begin, min(cell.end, keys));
    }
  } else {
    const int* listed = out.groups.of(g, u);
    int n = 0;
    if (!Upper)  // rows before the first lag meet no key
      for (int high = count; n < high;) {
        int middle = (n + high) / 2;
        if ((listed[middle] + 1) * kGroup <= l0)
          n = middle + 1;
        else
          high = middle;
      }
    while (n < count) {
      int block = listed[n] / kSideGroups;
      unsigned active = 0;
      for (; n < count && listed[n] / kSideGroups == block; ++n) active |= 1u << listed[n] % kSideGroups;
      scores.template add<false>(four, block * kSide, g.T, active, 0, keys);
    }
  }
  scores.flush();
}

}  // namespace

template <class T>
void direct_scores(const Geometry& g, const RowTensors<T>& x, const Triangle& t, const RowGradients& d, Device device) {
  bool four = aligned16(g.Dv, {x.dout, x.v});
  dim3 grid(unsigned(ceil_div(g.T, kLags)), unsigned(g.units));
  auto whole = t.upper ? (g.exact ? scores_kernel<false, true, true, T> : scores_kernel<false, true, false, T>)
                       : (g.exact ? scores_kernel<false, false, true, T> : scores_kernel<false, false, false, T>);
  launch_shared(whole, device, grid, kScoreThreads, kScoreShared, g, x, t, four, d);
  if (!g.causal || g.window) return;
  grid = dim3(unsigned(ceil_div(std::min(g.T, 2 * g.L), kLags)), unsigned(g.units), unsigned(g.segments));
  launch_shared(g.exact ? scores_kernel<true, false, true, T> : scores_kernel<true, false, false, T>, device, grid,
                kScoreThreads, kScoreShared, g, x, t, four, d);
}

#define INSTANTIATE(T) \
  template void direct_scores(const Geometry&, const RowTensors<T>&, const Triangle&, const RowGradients&, Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
