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
constexpr int kStage = (kStaged + kSide) * kRowStride;  // values of keys, gradients of rows

struct Rows {  // [i0, i0 + 64), of which groups `active`, before row `stop`; keys [begin, end)
  int i0, stop, begin, end;
  unsigned active;
};
struct Staged {
  int segment[kStaged];  // of the keys, or upper: of the rows
  float lse[kSide], delta[kSide];
};

template <class T>
__device__ __forceinline__ void product16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, bf16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <bool Edges, bool Upper, bool Exact, class T>
struct Scores {
  const Geometry& g;
  const RowTensors<T>& x;
  const Triangle& t;
  const float* all_delta;  // [u][T]
  T* tiles;                // [2][192 + 64][72] in shared memory, one read while the other arrives
  Staged* staged;          // [2] in shared memory
  float* logit;            // [16 + 128 + 16] in shared memory
  int u, l0;
  bool aligned;
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
  // All threads; overwrites the tile whose products are done.
  __device__ void flush(T* tile) {
    __syncthreads();
    if (current < 0) return;
    float* shared = reinterpret_cast<float*>(tile);
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

  __device__ int first_key(const Rows& b) const { return Upper ? b.i0 + l0 : b.i0 - l0 - kLags + 1; }
  __device__ bool empty(const Rows& b) const {
    return max(b.begin, first_key(b)) >= min(b.end, first_key(b) + kStaged);
  }
  __device__ void load(const Rows& b, int buffer, int d0) {
    int key0 = first_key(b), n = threadIdx.x;
    T* value = tiles + buffer * kStage;
    stage<kScoreThreads>(g, aligned, value, kStaged, d0, [&](int s) {
      return key0 + s >= b.begin && key0 + s < b.end ? x.v + g.value(u, key0 + s) : nullptr;
    });
    stage<kScoreThreads>(g, aligned, value + kStaged * kRowStride, kSide, d0,
                         [&](int s) { return b.i0 + s < g.T ? x.dout + g.output(u, b.i0 + s) : nullptr; });
    if (d0) return;
    Staged& to = staged[buffer];
    if (n < kSide) {
      to.lse[n] = b.i0 + n < b.stop ? row_lse<Edges>(g, x, u, b.i0 + n) : INFINITY;
      to.delta[n] = b.i0 + n < g.T ? all_delta[int64_t(u) * g.T + b.i0 + n] : 0.0f;
    }
    if (n < kStaged) {
      int at = (Upper ? b.i0 : key0) + n;
      to.segment[n] = at >= 0 && at < g.T ? g.segment_of(u, at) : -1;
    }
  }
  // dp[a][b] += <do_a, v_b> over the channels of a tile.
  __device__ void multiply(const T* value, int ahead, float (&dp)[kTiles][4]) const {
    int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    const T *rows = value + (kStaged + part() * kGroup + r) * kRowStride + 2 * c,
            *keys = value + (ahead + r) * kRowStride + 2 * c;
    if constexpr (sizeof(T) == 2) {
      auto pair = [](const T* p) { return *reinterpret_cast<const uint32_t*>(p); };
#pragma unroll
      for (int m = 0; m < kSide; m += 16) {
        uint32_t a[4] = {pair(rows + m), pair(rows + 8 * kRowStride + m), pair(rows + m + 8),
                         pair(rows + 8 * kRowStride + m + 8)};
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
          const T* y = keys + k * 8 * kRowStride + m;
          product16<T>(dp[k], a, {pair(y), pair(y + 8)});
        }
      }
    } else {
#pragma unroll 2
      for (int m = 0; m < kSide; m += 8) {  // channels m + 2c and m + 2c + 1 stand for columns c and c + 4
        float2 a0 = *reinterpret_cast<const float2*>(rows + m),
               a1 = *reinterpret_cast<const float2*>(rows + 8 * kRowStride + m);
        float both[4] = {a0.x, a1.x, a0.y, a1.y};
        tf32::Split<4, Exact> a(both);
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
          float2 y = *reinterpret_cast<const float2*>(keys + k * 8 * kRowStride + m);
          float b[2] = {y.x, y.y};
          tf32::mma(dp[k], a, tf32::Split<2, Exact>(b));
        }
      }
    }
  }
  // What next(rows) gives, until it gives false.
  template <class Next>
  __device__ void run(Next next) {
    Rows now, ahead;
    bool one = g.Dv <= kSide, any = next(now);
    if (any) load(now, 0, 0);
    for (int buffer = 0; any; buffer ^= 1, now = ahead) {
      wait_for_copies();
      __syncthreads();
      any = next(ahead);
      if (any && one) load(ahead, buffer ^ 1, 0);
      add(now, buffer);
      if (any && !one) __syncthreads(), load(ahead, buffer ^ 1, 0);
    }
    flush(tiles);
  }
  __device__ void add(const Rows& b, int buffer) {
    int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4, key0 = first_key(b);
    bool mine = b.active >> part() & 1;
    int ahead = part() * kGroup + (Upper ? half() : 1 - half()) * kSide;  // this warp's first key among the staged
    const Staged& from = staged[buffer];
    const int* segment = from.segment;
    float dp[kTiles][4] = {};
    for (int d0 = 0; d0 < g.Dv; d0 += kSide) {
      if (d0) {
        __syncthreads();
        load(b, buffer, d0);
        wait_for_copies();
        __syncthreads();
      }
      if (mine) multiply(tiles + buffer * kStage, ahead, dp);
    }
    int begin = b.begin, end = b.end, i0 = b.i0, jw = key0 + ahead;
    bool inside = jw >= begin && jw + kTiles * 8 <= end && l0 + half() * kSide >= t.first_lag;
    // The segments that these pairs belong to, in order.
    int low = Upper ? i0 : max(begin, key0), high = (Upper ? min(g.T, i0 + kSide) : min(end, key0 + kStaged)) - 1;
    int base = Upper ? i0 : key0, last = segment[high - base];
    for (int s = segment[low - base]; s <= last; ++s) {
      if (s != current) {
        flush(tiles + buffer * kStage);
        current = s;
        int at = g.start(u, s) + l0 + int(threadIdx.x) - kGroup, n = threadIdx.x;
        if (n < kLags + 2 * kGroup)
          logit[n] = at >= g.start(u, s) && at < g.T ? t.scores[g.score_row(u, s) + at] : -INFINITY;
        __syncthreads();
      }
      if (!mine) continue;
      const float* logits = logit + kGroup + half() * kSide;
      float l[2] = {from.lse[part() * kGroup + r], from.lse[part() * kGroup + r + 8]};
      float d[2] = {from.delta[part() * kGroup + r], from.delta[part() * kGroup + r + 8]};
      if (inside && s == last && s == segment[low - base]) {  // lags outside of [0, 64) are never read
#pragma unroll
        for (int k = 0; k < kTiles; ++k)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            acc[k][e] += exponential<Exact>(logits[lag_of(k, e)] - l[e / 2]) * (dp[k][e] - d[e / 2]);
        continue;
      }
#pragma unroll
      for (int k = 0; k < kTiles; ++k)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int lag = lag_of(k, e), a = part() * kGroup + r + e / 2 * 8, at = ahead + k * 8 + 2 * c + e % 2,
              j = key0 + at;
          bool on = lag >= 0 && lag < kSide && j >= begin && j < end && l0 + half() * kSide + lag >= t.first_lag;
          if (!on || segment[Upper ? a : at] != s) continue;
          acc[k][e] += exponential<Exact>(logits[lag] - l[e / 2]) * (dp[k][e] - d[e / 2]);
        }
    }
  }
};

// Edges: a block per 128 lags below 2L and segment, for the tiles of whose edges it is the last segment. Else: for
// whole rows, all segments.
template <bool Edges, bool Upper, bool Exact, class T>
__global__ void __launch_bounds__(kScoreThreads, Exact ? 1 : 2)
    scores_kernel(Geometry g, RowTensors<T> x, Triangle t, bool aligned, RowGradients out) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ Staged staged[2];
  __shared__ float logit[kLags + 2 * kGroup];
  int u = blockIdx.y, l0 = blockIdx.x * kLags, count = out.groups.count[u], keys = g.keys(u);
  Scores<Edges, Upper, Exact, T> scores{g,      x,     t, out.delta, reinterpret_cast<T*>(shared),
                                        staged, logit, u, l0,        aligned};
  if constexpr (Edges) {
    int r = blockIdx.z, begin = g.start(u, r), end = r + 1 < g.segments ? g.start(u, r + 1) : g.T;
    if (begin >= end) return;
    int tile = begin / g.L + 1, stop = min(g.tiles - 1, (end - 1) / g.L + 1), done = 0;  // rows of the tile
    scores.run([&](Rows& rows) {
      for (; tile <= stop; ++tile, done = 0) {
        const Cell& cell = g.edge(u, tile);
        if (!(x.direct[int64_t(u) * g.T + tile * g.L] & kEdge) || cell.segment != r) continue;
        while (done < g.L && tile * g.L + done < g.T) {
          rows = {tile * g.L + done, (tile + 1) * g.L, cell.begin, min(cell.end, keys), ~0u};
          done += kSide;
          if (!scores.empty(rows)) return true;
        }
      }
      return false;
    });
  } else {
    const int* listed = out.groups.of(g, u);
    int n = Upper ? 0 : groups_before(listed, count, l0);  // rows before the first lag meet no key
    scores.run([&](Rows& rows) {
      while (n < count) {
        int block = listed[n] / kSideGroups;
        rows = {block * kSide, g.T, 0, keys, 0};
        for (; n < count && listed[n] / kSideGroups == block; ++n) rows.active |= 1u << listed[n] % kSideGroups;
        if (!scores.empty(rows)) return true;
      }
      return false;
    });
  }
}

}  // namespace

template <class T>
void direct_scores(const Geometry& g, const RowTensors<T>& x, const Triangle& t, const RowGradients& d, Device device) {
  bool aligned = aligned16(g.Dv, {x.dout, x.v});
  constexpr size_t bytes = 2 * kStage * sizeof(T);
  static_assert(bytes / 2 >= 8 * kGroup * (kSide + 1) * sizeof(float));
  dim3 grid(unsigned(ceil_div(g.T, kLags)), unsigned(g.units));
  auto whole = t.upper ? (g.exact ? scores_kernel<false, true, true, T> : scores_kernel<false, true, false, T>)
                       : (g.exact ? scores_kernel<false, false, true, T> : scores_kernel<false, false, false, T>);
  launch_shared(whole, device, grid, kScoreThreads, bytes, g, x, t, aligned, d);
  if (!g.causal || g.window) return;
  grid = dim3(unsigned(ceil_div(std::min(g.T, 2 * g.L), kLags)), unsigned(g.units), unsigned(g.segments));
  launch_shared(g.exact ? scores_kernel<true, false, true, T> : scores_kernel<true, false, false, T>, device, grid,
                kScoreThreads, bytes, g, x, t, aligned, d);
}

#define INSTANTIATE(T) \
  template void direct_scores(const Geometry&, const RowTensors<T>&, const Triangle&, const RowGradients&, Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
