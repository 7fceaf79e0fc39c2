// Products by frequency on the tensor cores. A block owns 64 output rows of one pair of frequencies, f and -f: factors
// at -f are conjugates, so with -f's spectra conjugated the two are one product W X of twice as many columns, where
// W[t, m] = exp(mu - shift) a^[segment(m), t - tile(m)]. Both lie in shared memory, 64 terms of the sum at a time; a
// warp has 16 rows and 32 complex columns.
#include "core/cuda/copy_async.cuh"
#include "core/cuda/mma_tf32.cuh"
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 256, kSide = 64, kStride = kSide + 4, kGroups = 4;  // stride = 4 modulo 16: no bank conflicts
constexpr size_t kShared = 2 * kSide * kStride * sizeof(float2);

// Transposed: rows are cells and the sum runs over tiles, with W*; else rows are tiles and it runs over cells.
template <bool Transposed, bool Exact>
__global__ void __launch_bounds__(kThreads, Exact ? 2 : 3)
    mix_kernel(Geometry g, Triangle t, const float2* in, float2* out) {
  extern __shared__ __align__(16) float2 shared[];
  float2 *w = shared, *x = shared + kSide * kStride;  // [cells][tiles], [terms][columns]
  int chunks = (2 * g.columns + kSide - 1) / kSide, f = blockIdx.y, u = blockIdx.z;
  int row0 = int(blockIdx.x) / chunks * kSide, column0 = int(blockIdx.x) % chunks * kSide;
  int total = f == 0 || f == g.L ? g.columns : 2 * g.columns;  // the first and the last are their own partners
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  const Cell* cells = g.cell + int64_t(u) * g.cells;
  int count = to[g.tiles], rows = Transposed ? count : g.tiles, blocks = g.aligned ? g.tiles : g.cells;
  if (row0 >= rows || column0 >= total) return;
  int in_blocks = Transposed ? g.tiles : blocks, out_blocks = Transposed ? blocks : g.tiles;
  int place0 = bit_reverse(f, g.log), place1 = bit_reverse(g.places() - f, g.log);
  const float2 *from0 = in + g.spectrum(u, place0, in_blocks, 0), *from1 = in + g.spectrum(u, place1, in_blocks, 0);
  const float2* spectrum = t.spectrum + (int64_t(u) * (g.L + 1) + f) * g.segments * g.tiles;
  const float* scale = t.scale + int64_t(u) * g.cells * g.tiles;

  int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
  int top = warp % 4 * 16, left = warp / 4 * 32;  // of this warp, in the block
  int stop = Transposed ? g.tiles : to[min(rows, row0 + kSide)];
  int begin = Transposed && row0 + top < rows ? cells[row0 + top].tile : 0;
  int end = row0 + top >= rows || column0 + left >= total ? 0 : Transposed ? g.tiles : to[min(rows, row0 + top + 16)];

  uint32_t conjugated[kGroups];
#pragma unroll
  for (int n = 0; n < kGroups; ++n) conjugated[n] = column0 + left + n * 8 + r >= g.columns ? tf32::kSign : 0;
  float re[kGroups][4] = {}, im[kGroups][4] = {};
  int first = Transposed ? cells[row0].tile : 0;
  for (int k0 = first; k0 < stop; k0 += kSide) {
    if (k0 > first) __syncthreads();
#pragma unroll
    for (int i = 0; i < kSide * kSide / 2 / kThreads; ++i) {
      int e = threadIdx.x + i * kThreads, k = k0 + e / (kSide / 2), n = e % (kSide / 2) * 2, column = column0 + n;
      bool valid = k < stop && column < total;
      const float2* from = (column >= g.columns ? from1 - g.columns : from0) + (valid ? k * g.columns + column : 0);
      copy16_async(&x[e / (kSide / 2) * kStride + n], valid ? from : in, valid);
    }
    int m0 = Transposed ? row0 : k0, t0 = Transposed ? k0 : row0;
#pragma unroll 8
    for (int i = 0; i < kSide * kSide / kThreads; ++i) {
      int e = threadIdx.x + i * kThreads, m = m0 + e / kSide, tile = t0 + e % kSide;
      Cell cell = cells[min(m, count - 1)];
      bool on = m < count && tile < g.tiles && tile >= cell.tile;
      float s = on ? scale[int64_t(m) * g.tiles + tile] : 0.0f;
      float2 a = on ? spectrum[cell.segment * g.tiles + tile - cell.tile] : float2{0, 0};
      w[e / kSide * kStride + e % kSide] = {s * a.x, Transposed ? -s * a.y : s * a.y};
    }
    wait_for_copies();
    __syncthreads();
    int low = max(0, begin - k0) / 8 * 8, high = min(kSide, end - k0);
    for (int k = low; k < high; k += 8) {
      float wr[4], wi[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int row = top + r + i % 2 * 8, term = k + c + i / 2 * 4;
        float2 a = Transposed ? w[row * kStride + term] : w[term * kStride + row];
        wr[i] = a.x, wi[i] = a.y;
      }
      tf32::Split<4, Exact> a(wr), b(wi), minus = b.signed_by({tf32::kSign, tf32::kSign, tf32::kSign, tf32::kSign});
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        float2 p = x[(k + c) * kStride + left + n * 8 + r], q = x[(k + c + 4) * kStride + left + n * 8 + r];
        float xr[2] = {p.x, q.x}, xi[2] = {p.y, q.y};
        tf32::Split<2, Exact> br(xr), bi = tf32::Split<2, Exact>(xi).signed_by({conjugated[n], conjugated[n]});
        tf32::mma(re[n], a, br), tf32::mma(im[n], a, bi);
        tf32::mma(re[n], minus, bi), tf32::mma(im[n], b, br);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kGroups; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int row = row0 + top + r + half * 8, column = column0 + left + n * 8 + 2 * c;
      if (row >= rows || column >= total) continue;
      bool second = column >= g.columns;
      float sign = second ? -1.0f : 1.0f;
      float2* y = out + g.spectrum(u, second ? place1 : place0, out_blocks, row) + column - (second ? g.columns : 0);
      *reinterpret_cast<float4*>(y) =
          float4{re[n][2 * half], sign * im[n][2 * half], re[n][2 * half + 1], sign * im[n][2 * half + 1]};
    }
}

template <bool Transposed>
void launch_mix(const Geometry& g, const Triangle& t, const float2* in, float2* out, Device device) {
  int64_t rows = ceil_div(Transposed ? g.cells : g.tiles, kSide), chunks = ceil_div(2 * g.columns, kSide);
  launch_shared(g.exact ? mix_kernel<Transposed, true> : mix_kernel<Transposed, false>, device,
                dim3(unsigned(rows * chunks), unsigned(g.L + 1), unsigned(g.units)), kThreads, kShared, g, t, in, out);
}

}  // namespace

void mix(const Geometry& g, const Triangle& t, const float2* cells, float2* tiles, Device device) {
  launch_mix<false>(g, t, cells, tiles, device);
}
void mix_transposed(const Geometry& g, const Triangle& t, const float2* tiles, float2* cells, Device device) {
  launch_mix<true>(g, t, tiles, cells, device);
}

}  // namespace basis::ops::conv_cuda
