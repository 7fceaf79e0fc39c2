// Backward of rows that do not go through the FFT: dv by tiles of 64 keys, du by tiles of 128 lags, each owned by one
// block that goes through the groups in order.
#include "ops/conv_basis/conv_basis_cuda_direct.cuh"

namespace basis::ops::conv_cuda {
namespace {

// Row i's logsumexp where it is done directly, else infinity: its probabilities are 0.
template <class T>
__device__ __forceinline__ float row_lse(const Geometry& g, const RowTensors<T>& x, int u, int i) {
  int64_t row = int64_t(u) * g.T + i;
  if (i >= g.T || !x.direct[row]) return INFINITY;
  float l = x.lse[row];
  return l == -INFINITY ? INFINITY : l;
}

// dv[j] += sum over rows i of p(i, j) do_i. A block per 64 keys and 64 channels, 16 keys a warp; four groups at a time,
// the last ones first.
constexpr int kValueThreads = 128;
template <bool Exact, class T>
__global__ void __launch_bounds__(kValueThreads)
    values_kernel(Geometry g, RowTensors<T> x, const float* low, const float* up, bool fresh, bool four,
                  RowGradients out) {
  __shared__ __align__(16) float dout[kSide * kRowStride];
  __shared__ float lse[kSide];
  __shared__ int row[kSide];
  __shared__ int64_t above[kSide];
  int u = blockIdx.y, j0 = blockIdx.x * kSide, d0 = blockIdx.z * kSide, count = out.groups.count[u];
  int keys = g.keys(u), reach = out.groups.end(g, u);
  if (count == 0 || (g.causal && j0 >= reach)) return;
  int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, first = j0 + int(threadIdx.x) / 32 * kGroup + r;
  const int* listed = out.groups.of(g, u);
  low += g.score_row(u, 0);
  if (up) up += g.score_row(u, 0);
  int64_t offset[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h)
    if (first + 8 * h < keys) offset[h] = lower_offset(g, u, first + 8 * h);
  float acc[kSide / 8][4] = {};
  for (int n = count; n > 0; n -= kSideGroups) {
    if (g.causal && (listed[n - 1] + 1) * kGroup <= j0) break;
    __syncthreads();
    if (threadIdx.x < kSide) {
      int at = n - 1 - int(threadIdx.x) / kGroup, i = at < 0 ? g.T : listed[at] * kGroup + int(threadIdx.x) % kGroup;
      float l = row_lse(g, x, u, i);
      row[threadIdx.x] = i, lse[threadIdx.x] = l;
      if (!g.causal) above[threadIdx.x] = l < INFINITY ? upper_offset(g, u, i) : 0;
    }
    __syncthreads();
    stage<kValueThreads, T>(g, four, dout, kSide, d0, 1.0f,
                            [&](int s) { return lse[s] < INFINITY ? x.dout + g.output(u, row[s]) : nullptr; });
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kSide / 8; ++m) {
      float p[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int s = m * 8 + c + e / 2 * 4, i = row[s], j = first + e % 2 * 8;
        bool on = lse[s] < INFINITY && j < keys && (!g.causal || j <= i) && !g.near(i, j);
        p[e] = on ? exponential<Exact>((j <= i ? low[offset[e % 2] + i] : up[above[s] + j]) - lse[s]) : 0.0f;
      }
      tf32::Split<4, Exact> a(p);
#pragma unroll
      for (int k = 0; k < kSide / 8; ++k) {
        const float* from = &dout[(m * 8 + c) * kRowStride + k * 8 + r];
        float b[2] = {from[0], from[4 * kRowStride]};
        tf32::mma(acc[k], a, tf32::Split<2, Exact>(b));
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kSide / 8; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int j = first + e / 2 * 8, d = d0 + k * 8 + 2 * c + e % 2;
      if (j >= g.T || d >= 2 * g.columns) continue;
      float* dv = out.dv + (int64_t(u) * g.T + j) * 2 * g.columns + d;
      *dv = (fresh ? 0.0f : *dv) + acc[k][e];
    }
}

// du[lag] += sum of ds(i, j) = p(i, j) (<do_i, v_j> - delta_i) over the rows i that meet a key of the segment (upper
// triangle: rows of the segment that meet a key) at this lag. A block per 128 lags goes through blocks of 64 rows, 16
// rows and 64 lags a warp: with the 79 keys that these meet, <do, v> is a product of matrices. A thread's elements keep
// their lags from one block of rows to the next, so the sums down the diagonals wait until the segment changes.
constexpr int kScoreThreads = 256, kLags = 128, kStaged = kLags + kSide, kTiles = 10;  // tiles of 8 keys a warp
constexpr size_t kScoreShared = (kStaged + kSide) * kRowStride * sizeof(float);
static_assert(kScoreShared >= 8 * kGroup * (kSide + 1) * sizeof(float));

template <bool Upper, bool Exact, class T>
__global__ void __launch_bounds__(kScoreThreads, Exact ? 1 : 2)
    scores_kernel(Geometry g, RowTensors<T> x, Triangle t, bool four, RowGradients out) {
  extern __shared__ __align__(16) float shared[];
  __shared__ int segment[kStaged];  // of the staged keys, or upper: of the rows
  __shared__ float lse[kSide], delta[kSide], logit[kLags];
  float *value = shared, *dout = shared + kStaged * kRowStride, *sums = shared;
  int u = blockIdx.y, l0 = blockIdx.x * kLags, count = out.groups.count[u], keys = g.keys(u);
  const int* listed = out.groups.of(g, u);
  int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
  int part = warp % kSideGroups, half = warp / kSideGroups;  // rows and lags of this warp
  int ahead =
      Upper ? part * kGroup + half * kSide : part * kGroup + (1 - half) * kSide;  // its first key among the staged
  int current = -1;
  float acc[kTiles][4] = {};

  // Lag of element e of tile n, from this warp's first one on; outside of [0, 64) it is another warp's.
  auto lag_of = [&](int n, int e) {
    int a = r + e / 2 * 8, b = n * 8 + 2 * c + e % 2;
    return Upper ? b - a : a - b + kSide - 1;
  };
  auto flush = [&] {  // all threads
    __syncthreads();
    if (current >= 0) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int lag = lag_of(n, e);
          if (lag >= 0 && lag < kSide) sums[(warp * kGroup + r + e / 2 * 8) * (kSide + 1) + lag] = acc[n][e];
          acc[n][e] = 0;
        }
      __syncthreads();
      int lag = l0 + int(threadIdx.x), start = g.start(u, current);
      if (threadIdx.x < kLags && start + lag < g.T) {
        const float* from = sums + int(threadIdx.x) / kSide * kSide * (kSide + 1) + int(threadIdx.x) % kSide;
        float sum = 0;
#pragma unroll 8
        for (int a = 0; a < kSide; ++a) sum += from[a * (kSide + 1)];
        t.du[g.score_row(u, current) + start + lag] += sum;
      }
      __syncthreads();
    }
  };

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
    int block = listed[n] / kSideGroups, i0 = block * kSide, key0 = Upper ? i0 + l0 : i0 - l0 - kLags + 1;
    if (Upper && key0 >= keys) break;
    unsigned active = 0;
    for (; n < count && listed[n] / kSideGroups == block; ++n) active |= 1u << listed[n] % kSideGroups;
    __syncthreads();
    if (threadIdx.x < kSide) {
      int i = i0 + int(threadIdx.x);
      lse[threadIdx.x] = row_lse(g, x, u, i), delta[threadIdx.x] = i < g.T ? out.delta[int64_t(u) * g.T + i] : 0.0f;
    }
    if (threadIdx.x < kStaged) {
      int at = Upper ? i0 + int(threadIdx.x) : key0 + int(threadIdx.x);
      segment[threadIdx.x] = at >= 0 && at < g.T ? g.segment_of(u, at) : -1;
    }
    float dp[kTiles][4] = {};
    for (int d0 = 0; d0 < g.Dv; d0 += kSide) {
      if (d0) __syncthreads();
      stage<kScoreThreads, T>(g, four, value, kStaged, d0, 1.0f, [&](int s) {
        return key0 + s >= 0 && key0 + s < keys ? x.v + g.value(u, key0 + s) : nullptr;
      });
      stage<kScoreThreads, T>(g, four, dout, kSide, d0, 1.0f,
                              [&](int s) { return i0 + s < g.T ? x.dout + g.output(u, i0 + s) : nullptr; });
      __syncthreads();
      if (!(active >> part & 1)) continue;
#pragma unroll 2
      for (int m = 0; m < kSide; m += 8) {  // channels m + 2c and m + 2c + 1 stand for columns c and c + 4
        const float* from = &dout[(part * kGroup + r) * kRowStride + m + 2 * c];
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
    int low = Upper ? i0 : max(0, key0), high = min(Upper ? g.T : keys, Upper ? i0 + kSide : key0 + kStaged) - 1;
    if (low > high) continue;
    int base = Upper ? i0 : key0, last_segment = segment[high - base];
    for (int s = segment[low - base]; s <= last_segment; ++s) {
      if (s != current) {
        flush();
        current = s;
        int at = g.start(u, s) + l0 + int(threadIdx.x);
        if (threadIdx.x < kLags) logit[threadIdx.x] = at < g.T ? t.scores[g.score_row(u, s) + at] : -INFINITY;
        __syncthreads();
      }
      if (!(active >> part & 1)) continue;
#pragma unroll
      for (int k = 0; k < kTiles; ++k)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int lag = lag_of(k, e), a = part * kGroup + r + e / 2 * 8, at = ahead + k * 8 + 2 * c + e % 2, j = key0 + at;
          bool on = lag >= 0 && lag < kSide && j >= 0 && j < keys && l0 + half * kSide + lag >= t.first_lag;
          if (!on || segment[Upper ? a : at] != s) continue;
          acc[k][e] += exponential<Exact>(logit[half * kSide + lag] - lse[a]) * (dp[k][e] - delta[a]);
        }
    }
  }
  flush();
}

}  // namespace

template <class T>
void direct_values(const Geometry& g, const RowTensors<T>& x, const float* low, const float* up, bool fresh,
                   const RowGradients& d, Device device) {
  dim3 grid(unsigned(ceil_div(g.T, kSide)), unsigned(g.units), unsigned(ceil_div(2 * g.columns, kSide)));
  launch_shared(g.exact ? values_kernel<true, T> : values_kernel<false, T>, device, grid, kValueThreads, 0, g, x, low,
                up, fresh, aligned16(g.Dv, {x.dout}), d);
}

template <class T>
void direct_scores(const Geometry& g, const RowTensors<T>& x, const Triangle& t, const RowGradients& d, Device device) {
  dim3 grid(unsigned(ceil_div(g.T, kLags)), unsigned(g.units));
  auto kernel = t.upper ? (g.exact ? scores_kernel<true, true, T> : scores_kernel<true, false, T>)
                        : (g.exact ? scores_kernel<false, true, T> : scores_kernel<false, false, T>);
  launch_shared(kernel, device, grid, kScoreThreads, kScoreShared, g, x, t, aligned16(g.Dv, {x.dout, x.v}), d);
}

#define INSTANTIATE(T)                                                                                 \
  template void direct_values(const Geometry&, const RowTensors<T>&, const float*, const float*, bool, \
                              const RowGradients&, Device);                                            \
  template void direct_scores(const Geometry&, const RowTensors<T>&, const Triangle&, const RowGradients&, Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
