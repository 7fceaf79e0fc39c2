// Correlations by frequency on the tensor cores:
//
//   sums[f][r][d] = half of (E_f + E*_-f),   E_f[r][d] = sum over cells m of segment r of exp(mu - shift)
//                                                        <x_m, y_(tile + d)>
//
// A block owns one frequency of one head. -f's spectra are further channels of f's, conjugated. Products of 64
// cells with 64 tiles are laid into shared memory, where a thread goes down a diagonal and gives up its sum where a
// segment ends, always in the same order. A warp has 16 cells and 32 tiles.
#include "core/cuda/copy_async.cuh"
#include "core/cuda/mma_tf32.cuh"
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 256, kSide = 64, kDepth = 32, kStride = kDepth + 4;  // stride = 4 modulo 16: no bank conflicts
constexpr int kGroups = 4, kRow = kSide + 1;

template <bool Exact>
__global__ void __launch_bounds__(kThreads, Exact ? 2 : 3)
    correlate_kernel(Geometry g, Triangle t, const float2* cells, const float2* tiles) {
  __shared__ __align__(16) float2 shared[2 * kSide * kStride];
  __shared__ int tile_of[kSide], segment_of[kSide];
  static_assert(2 * kStride >= kRow);
  float2 *x = shared, *y = shared + kSide * kStride, *product = shared;
  int f = blockIdx.x, u = blockIdx.y, entries = g.segments * g.tiles;
  const Cell* cell = g.cell + int64_t(u) * g.cells;
  const float* scale = t.scale + int64_t(u) * g.cells * g.tiles;
  int count = g.cells_to[int64_t(u) * (g.tiles + 1) + g.tiles], blocks = g.aligned ? g.tiles : g.cells;
  bool alone = f == 0 || f == g.L;  // its own partner
  int total = alone ? g.columns : 2 * g.columns;
  int place0 = bit_reverse(f, g.log), place1 = bit_reverse(g.places() - f, g.log);
  float2* sums = t.sums + (int64_t(u) * (g.L + 1) + f) * entries;
  bool once = count <= kSide && g.tiles <= kSide;  // each entry is given up once
  for (int e = threadIdx.x; e < entries && !once; e += kThreads) sums[e] = {0, 0};
  int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
  int top = warp % 4 * 16, left = warp / 4 * 32;
  float share = alone ? 1.0f : 0.5f;

  // Rows [row0, row0 + 64) of a spectrum's channels from `channel` on.
  auto fill = [&](float2* into, const float2* from, int in_blocks, int row0, int rows, int channel) {
    const float2 *from0 = from + g.spectrum(u, place0, in_blocks, 0),
                 *from1 = from + g.spectrum(u, place1, in_blocks, 0);
#pragma unroll
    for (int i = 0; i < kSide * kDepth / 2 / kThreads; ++i) {
      int e = threadIdx.x + i * kThreads, row = row0 + e / (kDepth / 2), n = e % (kDepth / 2) * 2, column = channel + n;
      bool valid = row < rows && column < total;
      const float2* p = (column >= g.columns ? from1 - g.columns : from0) + (valid ? row * g.columns + column : 0);
      copy16_async(&into[e / (kDepth / 2) * kStride + n], valid ? p : from, valid);
    }
  };

  for (int m0 = 0; m0 < count; m0 += kSide) {
    int used = min(kSide, count - m0), first_tile = cell[m0].tile, last_tile = cell[m0 + used - 1].tile;
    for (int t0 = first_tile; t0 < g.tiles; t0 += kSide) {
      float re[kGroups][4] = {}, im[kGroups][4] = {};
      int lowest = cell[min(m0 + top, count - 1)].tile;  // of this warp's cells
      for (int channel = 0; channel < total; channel += kDepth) {
        __syncthreads();
        fill(x, cells, blocks, m0, count, channel), fill(y, tiles, g.tiles, t0, g.tiles, channel);
        if (channel == 0 && threadIdx.x < used)
          tile_of[threadIdx.x] = cell[m0 + threadIdx.x].tile, segment_of[threadIdx.x] = cell[m0 + threadIdx.x].segment;
        wait_for_copies();
        __syncthreads();
        if (t0 + left + 31 < lowest) continue;
#pragma unroll
        for (int k = 0; k < kDepth; k += 8) {
          float xr[4], xi[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float2 p = x[(top + r + i % 2 * 8) * kStride + k + c + i / 2 * 4];
            xr[i] = p.x, xi[i] = p.y;
          }
          uint32_t near = channel + k + c >= g.columns ? tf32::kSign : 0;
          uint32_t far = channel + k + c + 4 >= g.columns ? tf32::kSign : 0, other = tf32::kSign;
          tf32::Split<4, Exact> a(xr), b(xi), a2 = a.signed_by({near, near, far, far}),
                                              b2 = b.signed_by({near ^ other, near ^ other, far ^ other, far ^ other});
#pragma unroll
          for (int n = 0; n < kGroups; ++n) {
            const float2* row = &y[(left + n * 8 + r) * kStride + k + c];
            float yr[2] = {row[0].x, row[4].x}, yi[2] = {row[0].y, row[4].y};
            tf32::Split<2, Exact> br(yr), bi(yi);
            tf32::mma(re[n], a, br), tf32::mma(im[n], a2, bi);
            tf32::mma(re[n], b, bi), tf32::mma(im[n], b2, br);
          }
        }
      }
      float by[kGroups][4];
#pragma unroll
      for (int n = 0; n < kGroups; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          int m = m0 + top + r + i / 2 * 8, tile = t0 + left + n * 8 + 2 * c + i % 2;
          by[n][i] = m < count && tile < g.tiles ? share * scale[int64_t(m) * g.tiles + tile] : 0.0f;
        }
      __syncthreads();
#pragma unroll
      for (int n = 0; n < kGroups; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          product[(top + r + i / 2 * 8) * kRow + left + n * 8 + 2 * c + i % 2] = {by[n][i] * re[n][i],
                                                                                  by[n][i] * im[n][i]};
      __syncthreads();
      // Distances d0 .. d0 + lags - 1; 2 or 4 threads share one, each with every second or fourth segment.
      int d0 = max(0, t0 - last_tile), lags = t0 + kSide - first_tile - d0, parts = lags <= kSide ? 4 : 2;
      int part = int(threadIdx.x) / (kThreads / parts), d = d0 + int(threadIdx.x) % (kThreads / parts);
      float2 sum{0, 0};
      for (int m = 0; m < used; ++m) {
        int segment = segment_of[m], at = tile_of[m] + d - t0;
        if ((segment - segment_of[0]) % parts != part) continue;
        if (at >= 0 && at < kSide) sum.x += product[m * kRow + at].x, sum.y += product[m * kRow + at].y;
        if (m + 1 < used && segment_of[m + 1] == segment) continue;
        if (alone) sum.y = 0;
        float2* out = sums + segment * g.tiles + d;
        if (d < g.tiles - g.start(u, segment) / g.L) *out = once ? sum : float2{out->x + sum.x, out->y + sum.y};
        sum = {0, 0};
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
