// From the gradient of the scores at the breakpoints to dq and dk, and the gradients in their own dtype.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kPositions = 512, kSegments = 16;

// du[r][p] of both halves of the windows, for `Count` positions from p0 on and segments [r0, r0 + 16), into shared
// memory [16][Count] or, transposed, [Count][16].
template <int Count, bool Transposed>
__device__ __forceinline__ void load_du(const Geometry& g, const Triangle& t, int u, int r0, int p0, float* du) {
  for (int i = threadIdx.x; i < kSegments * Count; i += kThreads) {
    int r = i / Count, p = i % Count;
    bool in = r0 + r < g.segments && p0 + p < g.T && g.start(u, r0 + r) <= p0 + p;
    int64_t at = g.score_row(u, r0 + r) + p0 + p;
    du[Transposed ? p * kSegments + r : i] = in ? t.du[at] + t.du_low[at] : 0.0f;
  }
}

// A pair of channels, the second one 0 beyond D. Even: D is, and they may be read together.
template <bool Even, class T>
__device__ __forceinline__ float2 channels(const T* row, int d, int D) {
  if constexpr (Even) {
    if (d >= D) return {0, 0};
    Vec<T, 2> pair = load_vec<2>(row + d);
    return {widen(pair.v[0]), widen(pair.v[1])};
  } else {
    return {d < D ? widen(row[d]) : 0.0f, d + 1 < D ? widen(row[d + 1]) : 0.0f};
  }
}
// How many of segments [r0, r0 + 16) begin before `last`.
__device__ __forceinline__ int begun(const Geometry& g, int u, int r0, int last) {
  int r = r0 + int(threadIdx.x) % 32;
  bool on = threadIdx.x % 32 < kSegments && r < g.segments && g.start(u, r) < last;
  return __popc(__ballot_sync(0xffffffffu, on));
}

// into[p] += scale sum_r du[r][p] y[s_r]; or values[p] = that, in the tensors' own layout and dtype. A block per 64
// positions, 16 a warp; a lane has two channels of each.
constexpr int kSpread = 64;
template <bool Even, class T>
__global__ void __launch_bounds__(kThreads) spread_kernel(Geometry g, Triangle t, const T* y, float* into, T* values) {
  __shared__ __align__(16) float du[kSegments * kSpread];
  __shared__ __align__(16) float2 at[kSegments * 32];
  constexpr int own = kSpread / kWarps;
  int u = blockIdx.y, p0 = blockIdx.x * kSpread, lane = threadIdx.x % 32, first = threadIdx.x / 32 * own;
  for (int d0 = 0; d0 < g.D; d0 += 64) {
    float2 sum[own] = {};
    int d = d0 + 2 * lane;
    for (int r0 = 0; r0 < g.segments && g.start(u, r0) < min(g.T, p0 + kSpread); r0 += kSegments) {
      __syncthreads();
      load_du<kSpread, false>(g, t, u, r0, p0, du);
      for (int i = threadIdx.x; i < kSegments * 32; i += kThreads) {
        int r = r0 + i / 32, s = r < g.segments ? g.start(u, r) : g.T;
        at[i] = s < g.T ? channels<Even>(y + (t.upper ? g.query(u, s) : g.key(u, s)), d0 + 2 * (i % 32), g.D)
                        : float2{0, 0};
      }
      __syncthreads();
      int used = begun(g, u, r0, min(g.T, p0 + kSpread));
#pragma unroll 2
      for (int r = 0; r < used; ++r) {
        float2 a = at[r * 32 + lane];
#pragma unroll
        for (int n = 0; n < own; n += 4) {
          float4 by = *reinterpret_cast<const float4*>(&du[r * kSpread + first + n]);
          sum[n].x += by.x * a.x, sum[n].y += by.x * a.y, sum[n + 1].x += by.y * a.x, sum[n + 1].y += by.y * a.y;
          sum[n + 2].x += by.z * a.x, sum[n + 2].y += by.z * a.y, sum[n + 3].x += by.w * a.x;
          sum[n + 3].y += by.w * a.y;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < own; ++n) {
      int p = p0 + first + n;
      if (p >= g.T || d >= g.D) continue;
      if (values) {
        T* out = values + g.query(u, p) + d;
        Vec<T, 2> pair{device_convert<T>(g.scale * sum[n].x), device_convert<T>(g.scale * sum[n].y)};
        if constexpr (Even) {
          store_vec(out, pair);
        } else {
          out[0] = pair.v[0];
          if (d + 1 < g.D) out[1] = pair.v[1];
        }
      } else {
        float* out = into + (int64_t(u) * g.T + p) * g.D + d;
        out[0] += g.scale * sum[n].x;
        if (d + 1 < g.D) out[1] += g.scale * sum[n].y;
      }
    }
  }
}

// partial[u][chunk][r][d] = sum over a chunk of positions of du[r][p] x[p][d]. A warp takes every fourth position, a
// lane two channels of all 16 segments.
template <bool Even, class T>
__global__ void __launch_bounds__(kThreads) breakpoint_kernel(Geometry g, Triangle t, const T* x, float* partial) {
  __shared__ __align__(16) float du[kPositions * kSegments];  // [positions][16]; then the warps' sums
  int u = blockIdx.z, r0 = blockIdx.y * kSegments, p0 = blockIdx.x * kPositions, count = min(kPositions, g.T - p0);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (g.start(u, r0) >= p0 + count) {  // none has begun
    for (int i = threadIdx.x; i < min(kSegments, g.segments - r0) * g.D; i += kThreads)
      partial[((int64_t(u) * gridDim.x + blockIdx.x) * g.segments + r0) * g.D + i] = 0;
    return;
  }
  for (int d0 = 0; d0 < g.D; d0 += 64) {
    __syncthreads();
    load_du<kPositions, true>(g, t, u, r0, p0, du);
    __syncthreads();
    float2 sum[kSegments] = {};
    int used = begun(g, u, r0, p0 + count);
#pragma unroll 4
    for (int p = warp; p < count; p += kWarps) {
      float2 a = channels<Even>(x + (t.upper ? g.key(u, p0 + p) : g.query(u, p0 + p)), d0 + 2 * lane, g.D);
#pragma unroll
      for (int r = 0; r < kSegments; r += 4) {
        if (r >= used) break;
        float4 by = *reinterpret_cast<const float4*>(&du[p * kSegments + r]);
        sum[r].x += by.x * a.x, sum[r].y += by.x * a.y, sum[r + 1].x += by.y * a.x, sum[r + 1].y += by.y * a.y;
        sum[r + 2].x += by.z * a.x, sum[r + 2].y += by.z * a.y, sum[r + 3].x += by.w * a.x;
        sum[r + 3].y += by.w * a.y;
      }
    }
    __syncthreads();
    float2* sums = reinterpret_cast<float2*>(du);  // [warps][16][32]
    static_assert(2 * kWarps * 32 <= kPositions);
#pragma unroll
    for (int r = 0; r < kSegments; ++r) sums[(warp * kSegments + r) * 32 + lane] = sum[r];
    __syncthreads();
    for (int i = threadIdx.x; i < kSegments * 32; i += kThreads) {
      int r = r0 + i / 32, d = d0 + 2 * (i % 32);
      float2 total{0, 0};
      for (int w = 0; w < kWarps; ++w) {
        float2 one = sums[w * kSegments * 32 + i];
        total.x += one.x, total.y += one.y;
      }
      if (r >= g.segments || d >= g.D) continue;
      float* out = partial + ((int64_t(u) * gridDim.x + blockIdx.x) * g.segments + r) * g.D + d;
      out[0] = total.x;
      if (d + 1 < g.D) out[1] = total.y;
    }
  }
}

// at[s_r] += scale sum over chunks; or values[s_r] = that. A block per segment and head.
template <class T>
__global__ void breakpoint_sum_kernel(Geometry g, const float* partial, int chunks, float* at, T* values) {
  __shared__ float sums[kThreads];
  int r = blockIdx.x, u = blockIdx.y, s = g.start(u, r), slices = kThreads / 32, slice = threadIdx.x / 32;
  if (s >= g.T) return;
  for (int d0 = 0; d0 < g.D; d0 += 32) {
    int d = d0 + threadIdx.x % 32;
    float sum = 0;
#pragma unroll 4
    for (int c = s / kPositions + slice; c < chunks; c += slices)
      sum += d < g.D ? partial[((int64_t(u) * chunks + c) * g.segments + r) * g.D + d] : 0.0f;
    __syncthreads();
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (slice || d >= g.D) continue;
    for (int i = 1; i < slices; ++i) sum += sums[i * 32 + threadIdx.x];
    if (values)
      values[g.key(u, s) + d] = device_convert<T>(g.scale * sum);
    else
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

}  // namespace

template <class T>
void spread(const Geometry& g, const Triangle& t, const T* q, const T* k, const Spread<T>& to, Device device) {
  bool even = g.D % 2 == 0;
  for (const T* p : {q, k, static_cast<const T*>(to.values_into)})
    even = even && reinterpret_cast<uintptr_t>(p) % (2 * sizeof(T)) == 0;
  launch_shared(even ? spread_kernel<true, T> : spread_kernel<false, T>, device,
                dim3(unsigned(ceil_div(g.T, kSpread)), unsigned(g.units)), kThreads, 0, g, t, t.upper ? q : k, to.into,
                to.values_into);
  int chunks = int(ceil_div(g.T, kPositions));
  Tensor partial = Tensor::empty({g.units, chunks, g.segments, g.D}, DType::f32, device);
  launch_shared(even ? breakpoint_kernel<true, T> : breakpoint_kernel<false, T>, device,
                dim3(unsigned(chunks), unsigned(ceil_div(g.segments, kSegments)), unsigned(g.units)), kThreads, 0, g, t,
                t.upper ? k : q, partial.data<float>());
  launch_shared(breakpoint_sum_kernel<T>, device, dim3(unsigned(g.segments), unsigned(g.units)), kThreads, 0, g,
                partial.data<float>(), chunks, to.at, to.values_at);
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

#define INSTANTIATE(T)                                                                                  \
  template void spread(const Geometry&, const Triangle&, const T*, const T*, const Spread<T>&, Device); \
  template void collect(const Geometry&, const RowGradients&, T*, T*, T*, Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
