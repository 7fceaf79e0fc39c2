// Forward of what does not go through the FFT: an online softmax over tiles of 64 keys, a warp for each group of 16
// rows. Whole rows: where there are few groups the keys are split among blocks, and the parts merged in order. Edges:
// it goes on from what the FFT gave.
#include "ops/conv_basis/conv_basis_cuda_direct.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kBlocks = 528;                   // of the grid: what an H200 runs at once
constexpr int kMostSplits = 32;                // of a row's keys
constexpr int kPartial = kSide * (kSide + 2);  // floats that one part leaves: sums, largest logit and mass of 64 rows

// Blocks of four groups of one head, and into how many parts the keys of each are split.
struct Work {
  int blocks, splits;
  __device__ Work(const Geometry& g, const int* count) {
    int sum = 0;
    for (int u = threadIdx.x; u < g.units; u += kThreads) sum += blocks_of(count[u]);
    blocks = block_reduce<Sum, kThreads>(sum);
    splits = blocks ? max(1, min(kMostSplits, kBlocks / blocks)) : 1;
  }
  static __device__ int blocks_of(int groups) { return (groups + kSideGroups - 1) / kSideGroups; }
  // Head and first group of block n.
  static __device__ int2 place(const int* count, int n) {
    int u = 0;
    for (int here = blocks_of(count[0]); n >= here; here = blocks_of(count[u])) n -= here, ++u;
    return {u, n * kSideGroups};
  }
};

template <class T>
struct Forward {
  const float *low, *up;  // scores
  const T *q, *k, *v;
  const uint8_t* direct;
  const float* small;  // [u] or null
  T* o;
  float *lse, *partial;
  bool aligned;  // rows of values
  __device__ float unit(int u) const { return small ? small[u] : kSmall; }
};

// Sixty-four rows, of which a warp has sixteen, against keys [first step, last step) x 64.
template <bool Edges, bool Exact, class T>
struct Block {
  const Geometry& g;
  const Forward<T>& x;
  T* value;         // two tiles in shared memory, one read while the other arrives
  int64_t* offset;  // [2][64] in shared memory
  int u;
  float small;                    // unit of probabilities
  int begin[2], end[2];           // this thread's two rows; their keys: none where nothing is to be done
  int row[2], low_key, high_key;  // keys of the warp's rows
  int64_t above[2];
  float top[2], sum[2], acc[kSide / 8][4];

  __device__ void set_row(int h, int i) {
    row[h] = i, begin[h] = end[h] = 0, above[h] = 0;
    if (i >= g.T) return;
    uint8_t flag = x.direct[int64_t(u) * g.T + i];
    if (Edges && flag == kEdge) {
      const Cell& cell = g.edge(u, i / g.L);
      begin[h] = cell.begin, end[h] = min(cell.end, g.keys(u));
    } else if (!Edges && (flag & kWhole)) {
      end[h] = g.last_key(u, i);
      if (!g.causal) above[h] = upper_offset(g, u, i);
    }
  }
  __device__ bool wanted(int h) const {
    if (row[h] >= g.T) return false;
    uint8_t flag = x.direct[int64_t(u) * g.T + row[h]];
    return Edges ? flag == kEdge : (flag & kWhole) != 0;
  }
  // From nothing, or from what the FFT gave.
  __device__ void start(int d0) {
    int c = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = -INFINITY, sum[h] = 0;
      if (Edges && wanted(h)) top[h] = x.lse[int64_t(u) * g.T + row[h]];
      bool goes_on = top[h] > -INFINITY;
      if (goes_on && c == 0) sum[h] = 1;
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n)
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          int d = d0 + n * 8 + 2 * c + w;
          acc[n][2 * h + w] = goes_on && d < g.Dv ? widen(x.o[g.output(u, row[h]) + d]) * small : 0.0f;
        }
    }
  }
  // Keys [64 first, 64 last), before `stop`.
  __device__ void run(int first, int last, int stop, int d0) {
    int segment = -1;
    auto load = [&](int step) {
      int j0 = step * kSide, j = j0 + int(threadIdx.x), buffer = step % 2;
      stage<kThreads>(g, x.aligned, value + buffer * kSide * kRowStride, kSide, d0,
                      [&](int s) { return j0 + s < stop ? x.v + g.value(u, j0 + s) : nullptr; });
      if (threadIdx.x >= kSide || j >= stop) return;
      if (segment < 0) segment = g.segment_of(u, j);
      while (segment + 1 < g.segments && g.start(u, segment + 1) <= j) ++segment;
      offset[buffer * kSide + threadIdx.x] = int64_t(segment) * g.T + g.start(u, segment) - j;
    };
    __syncthreads();
    if (first < last) load(first);
    for (int step = first; step < last; ++step) {
      wait_for_copies();
      __syncthreads();
      if (step + 1 < last) load(step + 1);
      int j0 = step * kSide;
      if (j0 < high_key && j0 + kSide > low_key)
        add(j0, min(kSide, stop - j0), value + step % 2 * kSide * kRowStride, offset + step % 2 * kSide);
    }
  }
  __device__ void add(int j0, int count, const T* value, const int64_t* offset) {
    int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    const float *low = x.low + g.score_row(u, 0), *up = x.up ? x.up + g.score_row(u, 0) : nullptr;
    bool all = g.window == 0 && count == kSide && offset[kSide - 1] == offset[0] - (kSide - 1);  // one segment
#pragma unroll
    for (int h = 0; h < 2; ++h) all = all && (end[h] == 0 || (begin[h] <= j0 && j0 + kSide <= min(end[h], row[h] + 1)));
    float p[kSide / 8][4], now[2] = {top[0], top[1]}, base[2], fade[2];
    if (__all_sync(0xffffffffu, all)) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float* from = low + offset[0] + (end[h] ? row[h] : g.T - 1) - c;
#pragma unroll
        for (int n = 0; n < kSide / 4; ++n) now[h] = fmaxf(now[h], p[n / 2][n % 2 * 2 + h] = from[-4 * n]);
      }
    } else {
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int h = e % 2, at = n * 8 + c + e / 2 * 4, j = j0 + at;
          float logit = -INFINITY;
          if (j >= begin[h] && j < end[h]) {
            if (!Edges && g.near(row[h], j))
              logit = near_logit(x.q + g.query(u, row[h]), x.k + g.key(u, j), g.D, g.scale);
            else
              logit = Edges || j <= row[h] ? low[offset[at] + row[h]] : up[above[h] + j];
          }
          p[n][e] = logit, now[h] = fmaxf(now[h], logit);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 1));
      now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 2));
      base[h] = now[h] == -INFINITY ? 0.0f : now[h];
      fade[h] = exponential<Exact>(top[h] - base[h]);
      top[h] = now[h], sum[h] *= fade[h];
    }
#pragma unroll
    for (int n = 0; n < kSide / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        p[n][e] = exponential<Exact>(p[n][e] - base[e % 2]), sum[e % 2] += p[n][e];
        p[n][e] *= small;
        acc[n][e] *= fade[e / 2];
      }
#pragma unroll
    for (int m = 0; m < kSide / 8; ++m) {
      tf32::Split<4, Exact> a(p[m]);
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n) {
        const T* from = &value[(m * 8 + c) * kRowStride + n * 8 + r];
        float b[2] = {widen(from[0]), widen(from[4 * kRowStride])};
        tf32::mma(acc[n], a, tf32::Split<2, Exact>(b));
      }
    }
  }
  // Into o and, `with_lse`, lse; or where this is a part only, into `part`.
  __device__ void finish(int d0, bool with_lse, float* part) {
    int c = threadIdx.x % 4, slot = threadIdx.x / 32 * kGroup + threadIdx.x % 32 / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h, slot += 8) {
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
      if (!wanted(h)) continue;
      if (c == 0 && part) part[kSide * kSide + slot] = top[h], part[kSide * (kSide + 1) + slot] = sum[h];
      if (c == 0 && with_lse) x.lse[int64_t(u) * g.T + row[h]] = top[h] + logf(sum[h]);
      T* out = x.o + g.output(u, row[h]) + d0;
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n)
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          int d = n * 8 + 2 * c + w;
          float a = acc[n][2 * h + w];
          if (part)
            part[slot * kSide + d] = a;
          else if (d0 + d < g.Dv)
            out[d] = device_convert<T>(sum[h] > 0 ? a / sum[h] / small : 0.0f);
        }
    }
  }
};

template <bool Exact, class T>
__global__ void __launch_bounds__(kThreads) direct_kernel(Geometry g, Forward<T> x, Groups groups) {
  __shared__ __align__(16) T value[2 * kSide * kRowStride];
  __shared__ int64_t offset[2 * kSide];
  Work work(g, groups.count);
  int r = threadIdx.x % 32 / 4, warp = threadIdx.x / 32, d0 = blockIdx.y * kSide;
  for (int item = blockIdx.x; item < work.blocks * work.splits; item += gridDim.x) {
    int2 place = Work::place(groups.count, work.blocks - 1 - item / work.splits);
    int u = place.x, split = item % work.splits, used = min(kSideGroups, groups.count[u] - place.y);
    const int* listed = groups.of(g, u) + place.y;
    int stop = g.last_key(u, min(g.T, (listed[used - 1] + 1) * kGroup) - 1), steps = (stop + kSide - 1) / kSide;
    Block<false, Exact, T> block{g, x, value, offset, u, x.unit(u)};
    for (int h = 0; h < 2; ++h) block.set_row(h, warp < used ? listed[warp] * kGroup + r + 8 * h : g.T);
    block.low_key = 0;
    block.high_key = warp < used ? g.last_key(u, min(g.T, (listed[warp] + 1) * kGroup) - 1) : 0;
    block.start(d0);
    block.run(steps * split / work.splits, steps * (split + 1) / work.splits, stop, d0);
    float* part = x.partial + (int64_t(item) * gridDim.y + blockIdx.y) * kPartial;
    block.finish(d0, work.splits == 1 && d0 == 0, work.splits == 1 ? nullptr : part);
  }
}

// A block per 64 rows.
template <bool Exact, class T>
__global__ void __launch_bounds__(kThreads) edge_kernel(Geometry g, Forward<T> x) {
  __shared__ __align__(16) T value[2 * kSide * kRowStride];
  __shared__ int64_t offset[2 * kSide];
  int u = blockIdx.y, i0 = blockIdx.x * kSide, r = threadIdx.x % 32 / 4, own = i0 + int(threadIdx.x) / 32 * kGroup;
  int first = i0 / g.L, last = (min(g.T, i0 + kSide) - 1) / g.L;  // tiles of these rows
  bool any = false;
  for (int t = first; t <= last; ++t) any |= (x.direct[int64_t(u) * g.T + t * g.L] & kEdge) != 0;
  if (!any) return;
  Block<true, Exact, T> block{g, x, value, offset, u, x.unit(u)};
  for (int h = 0; h < 2; ++h) block.set_row(h, own + r + 8 * h);
  block.low_key = max(0, own / g.L - 1) * g.L, block.high_key = min(g.T, own + kGroup - 1) / g.L * g.L;
  int stop = min(last * g.L, g.keys(u));
  for (int d0 = 0; d0 < g.Dv; d0 += kSide) {
    block.start(d0);
    __syncwarp();
    block.run(max(0, first - 1) * g.L / kSide, (stop + kSide - 1) / kSide, stop, d0);
    block.finish(d0, d0 + kSide >= g.Dv, nullptr);
  }
}

// The parts of each row, in order. A block per block of four groups, a warp per row.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_kernel(Geometry g, Forward<T> x, Groups groups) {
  Work work(g, groups.count);
  if (work.splits == 1 || blockIdx.x >= work.blocks) return;
  int2 place = Work::place(groups.count, work.blocks - 1 - int(blockIdx.x));
  int u = place.x, used = min(kSideGroups, groups.count[u] - place.y), lane = threadIdx.x % 32, d0 = blockIdx.y * kSide;
  const float* parts = x.partial + (int64_t(blockIdx.x) * work.splits * gridDim.y + blockIdx.y) * kPartial;
  int64_t step = int64_t(gridDim.y) * kPartial;
  for (int slot = threadIdx.x / 32; slot < used * kGroup; slot += kWarps) {
    int i = groups.of(g, u)[place.y + slot / kGroup] * kGroup + slot % kGroup;
    if (i >= g.T || !(x.direct[int64_t(u) * g.T + i] & kWhole)) continue;
    const float *tops = parts + kSide * kSide + slot, *masses = tops + kSide;
    float top = -INFINITY, sum = 0, acc[2] = {}, small = x.unit(u);
    for (int s = 0; s < work.splits; ++s) top = fmaxf(top, tops[s * step]);
    for (int s = 0; s < work.splits && top > -INFINITY; ++s) {
      float by = expf(tops[s * step] - top);
      const float* a = parts + s * step + slot * kSide + lane;
      sum += by * masses[s * step], acc[0] += by * a[0], acc[1] += by * a[32];
    }
    if (lane == 0 && d0 == 0) x.lse[int64_t(u) * g.T + i] = top + logf(sum);
#pragma unroll
    for (int w = 0; w < 2; ++w)
      if (int d = d0 + lane + 32 * w; d < g.Dv)
        x.o[g.output(u, i) + d] = device_convert<T>(sum > 0 ? acc[w] / sum / small : 0.0f);
  }
}

}  // namespace

template <class T>
void direct_rows(const Geometry& g, const float* low, const float* up, const T* q, const T* k, const T* v,
                 const uint8_t* direct, const Groups& groups, const float* small, T* o, float* lse, Device device) {
  list_groups(g, direct, groups, device);
  unsigned chunks = unsigned(ceil_div(g.Dv, kSide));
  Tensor partial = Tensor::empty({kBlocks, int64_t(chunks), kPartial}, DType::f32, device);
  Forward<T> x{low, up, q, k, v, direct, small, o, lse, partial.data<float>(), aligned16(g.Dv, {v})};
  dim3 grid(kBlocks, chunks);
  launch_shared(g.exact ? direct_kernel<true, T> : direct_kernel<false, T>, device, grid, kThreads, 0, g, x, groups);
  launch_shared(merge_kernel<T>, device, grid, kThreads, 0, g, x, groups);
  if (g.causal && !g.window)
    launch_shared(g.exact ? edge_kernel<true, T> : edge_kernel<false, T>, device,
                  dim3(unsigned(ceil_div(g.T, kSide)), unsigned(g.units)), kThreads, 0, g, x);
}

template void direct_rows(const Geometry&, const float*, const float*, const float*, const float*, const float*,
                          const uint8_t*, const Groups&, const float*, float*, float*, Device);
template void direct_rows(const Geometry&, const float*, const float*, const bf16*, const bf16*, const bf16*,
                          const uint8_t*, const Groups&, const float*, bf16*, float*, Device);
template void direct_rows(const Geometry&, const float*, const float*, const f16*, const f16*, const f16*,
                          const uint8_t*, const Groups&, const float*, f16*, float*, Device);

}  // namespace basis::ops::conv_cuda
