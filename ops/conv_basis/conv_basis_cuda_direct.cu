// Forward of rows that do not go through the FFT: an online softmax over tiles of 64 keys, a warp for each group of 16
// rows. Where there are few groups the keys are split among blocks, and the parts merged in order.
#include "ops/conv_basis/conv_basis_cuda_direct.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kBlocks = 528;                   // of the grid: what an H200 runs at once
constexpr int kMostSplits = 32;                // of a row's keys
constexpr int kPartial = kSide * (kSide + 2);  // floats that one part leaves: sums, largest logit and mass of 64 rows

// A block per head, 16 rows a thread at a time.
__global__ void __launch_bounds__(1024) list_kernel(Geometry g, const uint8_t* direct, Groups out) {
  __shared__ int warp_count[32];
  int u = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, base = 0;
  int* listed = const_cast<int*>(out.of(g, u));
  for (int first = 0; first < g.T; first += kGroup * 1024) {
    int at = first + int(threadIdx.x) * kGroup;
    bool on = false;
#pragma unroll
    for (int n = 0; n < kGroup; ++n) on |= at + n < g.T && direct[int64_t(u) * g.T + at + n];
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
  if (threadIdx.x == 0) out.count[u] = base;
}

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
  T* o;
  float *lse, *partial;
  bool four;  // channels may be read four at a time
};

template <bool Exact, class T>
__global__ void __launch_bounds__(kThreads) direct_kernel(Geometry g, Forward<T> x, Groups groups) {
  __shared__ __align__(16) float value[kSide * kRowStride];
  __shared__ int64_t offset[kSide];
  Work work(g, groups.count);
  int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32, d0 = blockIdx.y * kSide;
  for (int item = blockIdx.x; item < work.blocks * work.splits; item += gridDim.x) {
    int2 place = Work::place(groups.count, work.blocks - 1 - item / work.splits);
    int u = place.x, split = item % work.splits, used = min(kSideGroups, groups.count[u] - place.y);
    const int* listed = groups.of(g, u) + place.y;
    int end = g.last_key(u, min(g.T, (listed[used - 1] + 1) * kGroup) - 1), steps = (end + kSide - 1) / kSide;
    const float *low = x.low + g.score_row(u, 0), *up = x.up ? x.up + g.score_row(u, 0) : nullptr;
    int row[2], stop[2] = {};  // this thread's rows, and behind their last keys: 0 where nothing is to be done
    int64_t above[2] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      row[h] = warp < used ? listed[warp] * kGroup + r + 8 * h : g.T;
      if (row[h] >= g.T || !x.direct[int64_t(u) * g.T + row[h]]) continue;
      stop[h] = g.last_key(u, row[h]);
      if (!g.causal) above[h] = upper_offset(g, u, row[h]);
    }
    int last = warp < used ? g.last_key(u, min(g.T, (listed[warp] + 1) * kGroup) - 1) : 0;
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, acc[kSide / 8][4] = {};
    for (int step = steps * split / work.splits; step < steps * (split + 1) / work.splits; ++step) {
      int j0 = step * kSide;
      __syncthreads();
      stage<kThreads, T>(g, x.four, value, kSide, d0, 1 / kUnit,
                         [&](int s) { return j0 + s < end ? x.v + g.value(u, j0 + s) : nullptr; });
      if (threadIdx.x < kSide && j0 + threadIdx.x < end) offset[threadIdx.x] = lower_offset(g, u, j0 + threadIdx.x);
      __syncthreads();
      if (j0 >= last) continue;
      float p[kSide / 8][4], now[2] = {top[0], top[1]};
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int h = e % 2, at = n * 8 + c + e / 2 * 4, j = j0 + at;
          float logit = -INFINITY;
          if (j < stop[h]) {
            if (g.near(row[h], j))
              logit = g.scale * pair_dot(x.q + g.query(u, row[h]), x.k + g.key(u, j), g.D);
            else
              logit = j <= row[h] ? low[offset[at] + row[h]] : up[above[h] + j];
          }
          p[n][e] = logit, now[h] = fmaxf(now[h], logit);
        }
      float base[2], fade[2];
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
          acc[n][e] *= fade[e / 2];
        }
#pragma unroll
      for (int m = 0; m < kSide / 8; ++m) {
        tf32::Split<4, Exact> a(p[m]);
#pragma unroll
        for (int n = 0; n < kSide / 8; ++n) {
          const float* from = &value[(m * 8 + c) * kRowStride + n * 8 + r];
          float b[2] = {from[0], from[4 * kRowStride]};
          tf32::mma(acc[n], a, tf32::Split<2, Exact>(b));
        }
      }
    }
    float* part = x.partial + (int64_t(item) * gridDim.y + blockIdx.y) * kPartial;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
      int slot = warp * kGroup + r + 8 * h;
      bool wanted = row[h] < g.T && x.direct[int64_t(u) * g.T + row[h]], alone = work.splits == 1;
      if (!wanted) continue;
      if (c == 0) {
        if (!alone) part[kSide * kSide + slot] = top[h], part[kSide * (kSide + 1) + slot] = sum[h];
        if (alone && d0 == 0) x.lse[int64_t(u) * g.T + row[h]] = top[h] + logf(sum[h]);
      }
      T* out = x.o + g.output(u, row[h]) + d0;
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n)
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          int d = n * 8 + 2 * c + w;
          float a = acc[n][2 * h + w];
          if (!alone)
            part[slot * kSide + d] = a;
          else if (d0 + d < g.Dv)
            out[d] = device_convert<T>(sum[h] > 0 ? a / sum[h] * kUnit : 0.0f);
        }
    }
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
    if (i >= g.T || !x.direct[int64_t(u) * g.T + i]) continue;
    const float *tops = parts + kSide * kSide + slot, *masses = tops + kSide;
    float top = -INFINITY, sum = 0, acc[2] = {};
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
        x.o[g.output(u, i) + d] = device_convert<T>(sum > 0 ? acc[w] / sum * kUnit : 0.0f);
  }
}

}  // namespace

void list_groups(const Geometry& g, const uint8_t* direct, const Groups& out, Device device) {
  launch(list_kernel, device, g.units, 1024, g, direct, out);
}

template <class T>
void direct_rows(const Geometry& g, const float* low, const float* up, const T* q, const T* k, const T* v,
                 const uint8_t* direct, const Groups& groups, T* o, float* lse, Device device) {
  list_groups(g, direct, groups, device);
  unsigned chunks = unsigned(ceil_div(g.Dv, kSide));
  Tensor partial = Tensor::empty({kBlocks, int64_t(chunks), kPartial}, DType::f32, device);
  Forward<T> x{low, up, q, k, v, direct, o, lse, partial.data<float>(), aligned16(g.Dv, {v})};
  dim3 grid(kBlocks, chunks);
  launch_shared(g.exact ? direct_kernel<true, T> : direct_kernel<false, T>, device, grid, kThreads, 0, g, x, groups);
  launch_shared(merge_kernel<T>, device, grid, kThreads, 0, g, x, groups);
}

template void direct_rows(const Geometry&, const float*, const float*, const float*, const float*, const float*,
                          const uint8_t*, const Groups&, float*, float*, Device);
template void direct_rows(const Geometry&, const float*, const float*, const bf16*, const bf16*, const bf16*,
                          const uint8_t*, const Groups&, bf16*, float*, Device);
template void direct_rows(const Geometry&, const float*, const float*, const f16*, const f16*, const f16*,
                          const uint8_t*, const Groups&, f16*, float*, Device);

}  // namespace basis::ops::conv_cuda
