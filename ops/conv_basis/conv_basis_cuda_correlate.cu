// Correlations by frequency on the tensor cores:
//
//   sums[f][r][d] = half of (E_f + E*_-f),   E_f[r][d] = sum over cells m of segment r of exp(mu - shift) <x_m, y_(tile
//   + d)>
//
// A block owns one frequency of one head. -f's spectra are read conjugated, as further channels of f's. Products of 64
// cells with 64 tiles are laid into shared memory, and each entry sums its diagonal there, always in the same order.
#include "core/cuda/mma_tf32.cuh"
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kPairs = 64, kDepth = 32, kStride = kDepth + 4;  // stride = 4 modulo 16

template <bool Exact>
__global__ void __launch_bounds__(kThreads, Exact ? 2 : 4)
    correlate_kernel(Geometry g, Triangle t, const float2* cells, const float2* tiles) {
  __shared__ __align__(16) float2 shared[2 * kPairs * kStride];
  static_assert(2 * kStride >= kPairs + 1);
  float2 *x = shared, *y = shared + kPairs * kStride, *product = shared;
  int f = blockIdx.x, u = blockIdx.y, entries = g.segments * g.tiles;
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  const Cell* cell = g.cell + int64_t(u) * g.cells;
  const float* scale = t.scale + int64_t(u) * g.cells * g.tiles;
  int count = to[g.tiles], blocks = g.aligned ? g.tiles : g.cells;
  bool alone = f == 0 || f == g.L;
  int total = alone ? g.columns : 2 * g.columns;
  int place0 = bit_reverse(f, g.log), place1 = bit_reverse(g.places() - f, g.log);
  float2* sums = t.sums + (int64_t(u) * (g.L + 1) + f) * entries;
  for (int e = threadIdx.x; e < entries; e += kThreads) sums[e] = {0, 0};
  int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, top = int(threadIdx.x) / 32 * 16;
  float share = alone ? 1.0f : 0.5f;

  // Rows [row0, row0 + 64) of a spectrum's channels from `channel` on.
  auto fill = [&](float2* into, const float2* from, int in_blocks, int row0, int rows, int channel) {
#pragma unroll
    for (int i = 0; i < kPairs * kDepth / 2 / kThreads; ++i) {
      int e = threadIdx.x + i * kThreads, k = e / (kDepth / 2), n = e % (kDepth / 2) * 2, column = channel + n;
      float4 v{0, 0, 0, 0};
      if (row0 + k < rows && column < total) {
        int side = column >= g.columns;
        v = *reinterpret_cast<const float4*>(from + g.spectrum(u, side ? place1 : place0, in_blocks, row0 + k) +
                                             column - side * g.columns);
        if (side) v.y = -v.y, v.w = -v.w;
      }
      *reinterpret_cast<float4*>(&into[k * kStride + n]) = v;
    }
  };

  for (int m0 = 0; m0 < count; m0 += kPairs) {
    int last = min(count, m0 + kPairs) - 1, first_tile = cell[m0].tile;
    for (int t0 = first_tile; t0 < g.tiles; t0 += kPairs) {
      float re[kPairs / 8][4] = {}, im[kPairs / 8][4] = {};
      int lowest = cell[min(m0 + top, last)].tile;  // of this warp's cells
      for (int channel = 0; channel < total; channel += kDepth) {
        __syncthreads();
        fill(x, cells, blocks, m0, count, channel);
        fill(y, tiles, g.tiles, t0, g.tiles, channel);
        __syncthreads();
#pragma unroll 1
        for (int k = 0; k < kDepth; k += 8) {
          float xr[4], xi[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float2 p = x[(top + r + i % 2 * 8) * kStride + k + c + i / 2 * 4];
            xr[i] = p.x, xi[i] = p.y;
          }
          tf32::Split<4> a(xr, Exact), b(xi, Exact), minus = -b;
#pragma unroll
          for (int n = 0; n < kPairs / 8; ++n) {
            if (t0 + n * 8 + 7 < lowest) continue;
            float2 p = y[(n * 8 + r) * kStride + k + c], q = y[(n * 8 + r) * kStride + k + c + 4];
            float yr[2] = {p.x, q.x}, yi[2] = {p.y, q.y};
            tf32::Split<2> br(yr, Exact), bi(yi, Exact);
            tf32::mma(re[n], a, br, Exact), tf32::mma(im[n], a, bi, Exact);
            tf32::mma(re[n], b, bi, Exact), tf32::mma(im[n], minus, br, Exact);
          }
        }
      }
      __syncthreads();
#pragma unroll
      for (int n = 0; n < kPairs / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          int row = top + r + i / 2 * 8, column = n * 8 + 2 * c + i % 2, m = m0 + row, tile = t0 + column;
          float s = m < count && tile < g.tiles ? share * scale[int64_t(m) * g.tiles + tile] : 0.0f;
          product[row * (kPairs + 1) + column] = {s * re[n][i], s * im[n][i]};
        }
      __syncthreads();
      int r0 = cell[m0].segment, d0 = max(0, t0 - cell[last].tile), lags = t0 + kPairs - first_tile - d0;
      for (int e = threadIdx.x; e < (cell[last].segment - r0 + 1) * lags; e += kThreads) {
        int segment = r0 + e / lags, d = d0 + e % lags, start = g.start(u, segment);
        if (start >= g.T || d >= g.tiles - start / g.L) continue;
        int stop = segment + 1 < g.segments ? min(g.T, g.start(u, segment + 1)) : g.T;
        float2 sum = sums[segment * g.tiles + d];
        for (int m = max(m0, to[start / g.L]); m < min(last + 1, to[(stop - 1) / g.L + 1]); ++m) {
          int tile = cell[m].tile + d;
          if (cell[m].segment != segment || tile < t0 || tile >= min(g.tiles, t0 + kPairs)) continue;
          float2 p = product[(m - m0) * (kPairs + 1) + tile - t0];
          sum.x += p.x, sum.y += alone ? 0.0f : p.y;
        }
        sums[segment * g.tiles + d] = sum;
      }
    }
  }
}

}  // namespace

void correlate(const Geometry& g, const Triangle& t, const float2* cells, const float2* tiles, Device device) {
  launch_shared(g.exact ? correlate_kernel<true> : correlate_kernel<false>, device,
                dim3(unsigned(g.L + 1), unsigned(g.units)), kThreads, 0, g, t, cells, tiles);
}

}  // namespace basis::ops::conv_cuda
