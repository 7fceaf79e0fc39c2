// Units of channels in f32. Two channels share a transform, and all rows of a tile: what one rounds off must not exceed
// another. Each channel is brought to at most 2 by a power of two, and where a row sees values much smaller than those
// that its tile transforms, its limit falls.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

// largest[u][tile][2 columns]: of |factor x| over the rows of a tile. Gradient: rows are queries, else keys.
template <bool Gradient>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(Geometry g, const float* rows, const float* factor, float* largest) {
  int tile = blockIdx.x, u = blockIdx.y, begin = tile * g.L, end = min(begin + g.L, Gradient ? g.T : g.keys(u));
  for (int c = threadIdx.x; c < 2 * g.columns; c += kThreads) {
    float top = 0;
    for (int i = begin; i < end && c < g.Dv; ++i) {
      float x = rows[(Gradient ? g.output(u, i) : g.value(u, i)) + c];
      top = fmaxf(top, fabsf(Gradient ? factor[int64_t(u) * g.T + i] * x : x));
    }
    largest[(int64_t(u) * g.tiles + tile) * 2 * g.columns + c] = top;
  }
}

__global__ void units_kernel(Geometry g, const float* largest, int smallest, Units out) {
  int u = blockIdx.x;
  float all = 0;
  for (int c = threadIdx.x; c < 2 * g.columns; c += kThreads) {
    float top = 0;
    for (int t = 0; t < g.tiles; ++t) top = fmaxf(top, largest[(int64_t(u) * g.tiles + t) * 2 * g.columns + c]);
    all = fmaxf(all, top);
    int exponent = top == 0 || !isfinite(top) ? 0 : min(max(ilogbf(top), smallest), 120);
    int64_t at = int64_t(u) * 2 * g.columns + c;
    out.unit[at] = ldexpf(1, exponent), out.inverse[at] = ldexpf(1, -exponent);
    out.shared[at] = ldexpf(1, exponent) / kUnit;
  }
  all = block_reduce<Max, kThreads>(all);
  if (threadIdx.x == 0) out.small[u] = all < 0x1p107f ? 1.0f : kSmall;
}

// excess[u][T]: how much larger than what a row has seen in a channel, at worst, is what its tile transforms with it. A
// block per tile, a slice of its rows a warp; a lane has every 32nd channel.
__global__ void __launch_bounds__(kThreads)
    excess_kernel(Geometry g, const float* v, const float* largest, Units units, float* excess) {
  extern __shared__ float shared[];  // [6][2 columns]
  int tile = blockIdx.x, u = blockIdx.y, n = 2 * g.columns, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float *moved = shared, *seen = shared + (1 + warp) * n, *before = shared + 5 * n;
  const float *tops = largest + int64_t(u) * g.tiles * n, *inverse = units.inverse + int64_t(u) * n;
  for (int c = threadIdx.x; c < n; c += kThreads) {
    float top = 0;
    for (int t = 0; t < tile; ++t) top = fmaxf(top, tops[int64_t(t) * n + c]);
    before[c] = top, moved[c] = fmaxf(top, tops[int64_t(tile) * n + c]);
  }
  int slice = (g.L + kWarps - 1) / kWarps, origin = tile * g.L, end = min(g.T, origin + g.L), keys = g.keys(u);
  int low = min(end, origin + warp * slice), high = min(end, low + slice);
  for (int c = lane; c < n; c += 32) {
    float top = 0;
    for (int i = low; i < min(high, keys) && c < g.Dv; ++i) top = fmaxf(top, fabsf(v[g.value(u, i) + c]));
    seen[c] = top;
  }
  __syncthreads();
  float top[8];  // up to 256 channels in registers, before this warp's slice
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    int c = lane + 32 * k;
    top[k] = c < n ? before[c] : 0.0f;
    for (int w = 0; w < warp && c < n; ++w) top[k] = fmaxf(top[k], shared[(1 + w) * n + c]);
  }
  for (int i = low; i < high; ++i) {
    float worst = 1;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      int c = lane + 32 * k;
      if (c >= g.Dv) break;
      if (i < keys) top[k] = fmaxf(top[k], fabsf(v[g.value(u, i) + c]));
      float own = moved[c] * inverse[c], other = moved[c ^ 1] * inverse[c ^ 1];
      if (own > 0) worst = fmaxf(worst, fmaxf(own, other) / (top[k] * inverse[c]));
    }
    worst = warp_reduce<Max>(worst);
    if (lane == 0) excess[int64_t(u) * g.T + i] = worst;
  }
}

}  // namespace

void value_units(const Geometry& g, const float* v, const Units& out, float* excess, Device device) {
  Tensor largest = Tensor::empty({g.units, g.tiles, 2 * g.columns}, DType::f32, device);
  dim3 grid(unsigned(g.tiles), unsigned(g.units));
  launch_shared(largest_kernel<false>, device, grid, kThreads, 0, g, v, nullptr, largest.data<float>());
  launch(units_kernel, device, g.units, kThreads, g, largest.data<float>(), -120, out);
  if (excess)
    launch_shared(excess_kernel, device, grid, kThreads, 6 * 2 * size_t(g.columns) * sizeof(float), g, v,
                  largest.data<float>(), out, excess);
}

void gradient_units(const Geometry& g, const float* dout, const float* factor, const Units& out, Device device) {
  Tensor largest = Tensor::empty({g.units, g.tiles, 2 * g.columns}, DType::f32, device);
  dim3 grid(unsigned(g.tiles), unsigned(g.units));
  launch_shared(largest_kernel<true>, device, grid, kThreads, 0, g, dout, factor, largest.data<float>());
  launch(units_kernel, device, g.units, kThreads, g, largest.data<float>(), -80, out);
}

}  // namespace basis::ops::conv_cuda
