// Products by frequency on the tensor cores. A block owns 64 output rows of one pair of frequencies, f and -f: factors
// at -f are conjugates, so with -f's spectra conjugated the two are one product W X of twice as many columns, where
// W[t, m] = exp(mu - shift) a^[segment(m), t - tile(m)]. A warp owns 16 rows; it reads its part of W from memory.
#include "core/cuda/mma_tf32.cuh"
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128, kRows = 64, kSlice = 64, kGroups = 8;  // 8 x 8 columns: a head of 64 at two frequencies
constexpr int kWidth = kGroups * 8, kStride = kWidth + 4;            // stride = 4 modulo 16: no bank conflicts

// W at one frequency, 0 above the diagonal and outside.
struct Weights {
  const float2* spectrum;  // [segments][tiles]
  const float* scale;      // [cells][tiles]
  const Cell* cells;
  int tiles, count;

  __device__ __forceinline__ float2 operator()(int tile, int m) const {
    Cell c = cells[min(m, count - 1)];
    bool on = m < count && tile < tiles && tile >= c.tile;
    float s = on ? scale[int64_t(m) * tiles + tile] : 0.0f;
    float2 a = on ? spectrum[c.segment * tiles + tile - c.tile] : float2{0, 0};
    return {s * a.x, s * a.y};
  }
};

// Transposed: rows are cells and the sum runs over tiles, with W*; else rows are tiles and it runs over cells.
template <bool Transposed, bool Exact>
__global__ void __launch_bounds__(kThreads, Exact ? 2 : 4)
    mix_kernel(Geometry g, Triangle t, const float2* in, float2* out) {
  __shared__ __align__(16) float2 x[kSlice * kStride];
  int chunks = (2 * g.columns + kWidth - 1) / kWidth, f = blockIdx.y, u = blockIdx.z;
  int row0 = int(blockIdx.x) / chunks * kRows, column0 = int(blockIdx.x) % chunks * kWidth;
  bool alone = f == 0 || f == g.L;  // its own partner
  int total = alone ? g.columns : 2 * g.columns;
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  int count = to[g.tiles], rows = Transposed ? count : g.tiles, blocks = g.aligned ? g.tiles : g.cells;
  if (row0 >= rows || column0 >= total) return;
  int in_blocks = Transposed ? g.tiles : blocks, out_blocks = Transposed ? blocks : g.tiles;
  int place0 = bit_reverse(f, g.log), place1 = bit_reverse(g.places() - f, g.log);
  const float2 *from0 = in + g.spectrum(u, place0, in_blocks, 0), *from1 = in + g.spectrum(u, place1, in_blocks, 0);
  Weights weights{t.spectrum + (int64_t(u) * (g.L + 1) + f) * g.segments * g.tiles,
                  t.scale + int64_t(u) * g.cells * g.tiles, g.cell + int64_t(u) * g.cells, g.tiles, count};

  int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4, top = row0 + int(threadIdx.x) / 32 * 16;
  // The terms that the block's and this warp's rows need.
  int first = Transposed ? weights.cells[row0].tile : 0;
  int stop = Transposed ? g.tiles : to[min(rows, row0 + kRows)];
  int begin = Transposed && top < rows ? weights.cells[top].tile : 0;
  int end = top >= rows ? 0 : Transposed ? g.tiles : to[min(rows, top + 16)];
  auto load = [&](float2(&w)[4], int k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int row = top + r + i % 2 * 8, term = k + c + i / 2 * 4;
      w[i] = Transposed ? conjugate(weights(term, row)) : weights(row, term);
    }
  };

  float re[kGroups][4] = {}, im[kGroups][4] = {};
  for (int k0 = first; k0 < stop; k0 += kSlice) {
    if (k0 > first) __syncthreads();
#pragma unroll 8
    for (int i = 0; i < kSlice * kWidth / 2 / kThreads; ++i) {
      int e = threadIdx.x + i * kThreads, k = e / (kWidth / 2), n = e % (kWidth / 2) * 2, column = column0 + n;
      float4 v{0, 0, 0, 0};
      if (k0 + k < stop && column < total) {
        int side = column >= g.columns;
        v = *reinterpret_cast<const float4*>((side ? from1 - g.columns : from0) + (k0 + k) * g.columns + column);
        if (side) v.y = -v.y, v.w = -v.w;
      }
      *reinterpret_cast<float4*>(&x[k * kStride + n]) = v;
    }
    __syncthreads();
    int low = max(0, begin - k0) / 8 * 8, high = min(kSlice, end - k0);
    float2 next[4];
    if (low < high) load(next, k0 + low);
    for (int k = low; k < high; k += 8) {
      float wr[4], wi[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) wr[i] = next[i].x, wi[i] = next[i].y;
      tf32::Split<4> a(wr, Exact), b(wi, Exact), minus = -b;
      if (k + 8 < high) load(next, k0 + k + 8);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        int column = column0 + n * 8;
        if (column >= total) break;
        float2 p = x[(k + c) * kStride + n * 8 + r], q = x[(k + c + 4) * kStride + n * 8 + r];
        float xr[2] = {p.x, q.x}, xi[2] = {p.y, q.y};
        tf32::Split<2> br(xr, Exact), bi(xi, Exact);
        tf32::mma(re[n], a, br, Exact), tf32::mma(im[n], a, bi, Exact);
        tf32::mma(re[n], minus, bi, Exact), tf32::mma(im[n], b, br, Exact);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kGroups; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int row = top + r + half * 8, column = column0 + n * 8 + 2 * c;
      if (row >= rows || column >= total) continue;
      int side = column >= g.columns;
      float sign = side ? -1.0f : 1.0f;
      float2* y = out + g.spectrum(u, side ? place1 : place0, out_blocks, row) + column - side * g.columns;
      *reinterpret_cast<float4*>(y) =
          float4{re[n][2 * half], sign * im[n][2 * half], re[n][2 * half + 1], sign * im[n][2 * half + 1]};
    }
}

template <bool Transposed>
void launch_mix(const Geometry& g, const Triangle& t, const float2* in, float2* out, Device device) {
  int64_t rows = ceil_div(Transposed ? g.cells : g.tiles, kRows), chunks = ceil_div(2 * g.columns, kWidth);
  launch_shared(g.exact ? mix_kernel<Transposed, true> : mix_kernel<Transposed, false>, device,
                dim3(unsigned(rows * chunks), unsigned(g.L + 1), unsigned(g.units)), kThreads, 0, g, t, in, out);
}

}  // namespace

void mix(const Geometry& g, const Triangle& t, const float2* cells, float2* tiles, Device device) {
  launch_mix<false>(g, t, cells, tiles, device);
}
void mix_transposed(const Geometry& g, const Triangle& t, const float2* tiles, float2* cells, Device device) {
  launch_mix<true>(g, t, tiles, cells, device);
}

}  // namespace basis::ops::conv_cuda
