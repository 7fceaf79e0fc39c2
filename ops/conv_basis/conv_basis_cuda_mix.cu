// Products by frequency. A block owns one frequency of one head and 64 output rows: the small matrix
// W[t, m] = exp(mu - shift) a^[segment(m), t - tile(m)] is built in shared memory a slice at a time and multiplied with
// the spectra; a thread keeps 4 rows x 4 complex columns in registers.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kRows = 64, kSlice = 32, kGroups = 9;  // 9 groups of 4 columns: heads of 64 and their normaliser

__device__ __forceinline__ void fma_complex(float2& sum, float2 a, float2 b) {
  sum.x += a.x * b.x - a.y * b.y;
  sum.y += a.x * b.y + a.y * b.x;
}

// W[t, m] of frequency `place`, 0 above the diagonal.
struct Weights {
  Geometry g;
  Triangle t;
  const float* shift;
  int u, place;
  const Cell* cells;
  const float2* spectrum;  // [segments][tiles]
  bool conjugated;

  __device__ Weights(const Geometry& g_, const Triangle& t_, const float* shift_, int u_, int place_)
      : g(g_),
        t(t_),
        shift(shift_ + int64_t(u_) * g_.tiles),
        u(u_),
        place(place_),
        cells(g_.cell + int64_t(u_) * g_.cells) {
    int f = bit_reverse(place, g.log);
    conjugated = f > g.L;
    if (conjugated) f = g.places() - f;
    spectrum = t.spectrum + (int64_t(u) * (g.L + 1) + f) * g.segments * g.tiles;
  }
  __device__ float scale(int tile, const Cell& c) const {
    float mu = t.mu[g.window_at(u, c.segment, tile - c.tile)];
    return mu == -INFINITY ? 0.0f : expf(mu - shift[t.upper ? c.tile : tile]);
  }
  __device__ float2 operator()(int tile, int m) const {
    Cell c = cells[m];
    if (tile < c.tile) return {0, 0};
    float s = scale(tile, c);
    float2 a = spectrum[c.segment * g.tiles + tile - c.tile];
    return {s * a.x, conjugated ? -s * a.y : s * a.y};
  }
};

// Transposed: rows are cells and the sum runs over tiles, with W*; else rows are tiles and it runs over cells.
template <bool Transposed>
__global__ void mix_kernel(Geometry g, Triangle t, const float* shift, const float2* in, float2* out) {
  __shared__ __align__(16) float2 w[kSlice][kRows];
  __shared__ __align__(16) float2 x[kSlice][kGroups * 4];
  int place = blockIdx.x, u = blockIdx.z, groups = min(kGroups, g.columns / 4),
      column_blocks = (g.columns / 4 + kGroups - 1) / kGroups;
  int row0 = blockIdx.y / column_blocks * kRows, column0 = blockIdx.y % column_blocks * kGroups * 4;
  int width = min(kGroups * 4, g.columns - column0);
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  int count = to[g.tiles], rows = Transposed ? count : g.tiles, blocks = g.aligned ? g.tiles : g.cells;
  if (row0 >= rows) return;
  Weights weights(g, t, shift, u, place);
  int row = row0 + int(threadIdx.x) / groups * 4, column = int(threadIdx.x) % groups * 4;
  int last_row = min(rows - 1, row + 3);
  // This thread's rows need the terms [begin, end) only.
  int begin = Transposed && row < rows ? weights.cells[row].tile : 0;
  int end = Transposed ? g.tiles : row < rows ? to[last_row + 1] : 0;
  int first = Transposed ? weights.cells[row0].tile / kSlice * kSlice : 0;
  int stop = Transposed ? g.tiles : to[min(rows, row0 + kRows)];
  int in_blocks = Transposed ? g.tiles : blocks, out_blocks = Transposed ? blocks : g.tiles;
  float2 sum[4][4] = {};
  for (int k0 = first; k0 < stop; k0 += kSlice) {
    __syncthreads();
    for (int i = threadIdx.x; i < kSlice * kRows; i += blockDim.x) {
      int k = k0 + i / kRows, r = row0 + i % kRows;
      float2 value{0, 0};
      if (k < stop && r < rows) value = Transposed ? conjugate(weights(k, r)) : weights(r, k);
      w[i / kRows][i % kRows] = value;
    }
    for (int i = threadIdx.x; i < kSlice * kGroups * 4; i += blockDim.x) {
      int k = k0 + i / (kGroups * 4), c = i % (kGroups * 4);
      if (k < stop && c < width) x[i / (kGroups * 4)][c] = in[g.spectrum(u, place, in_blocks, k) + column0 + c];
    }
    __syncthreads();
    if (column >= width) continue;
    int low = max(0, begin - k0), high = min(kSlice, end - k0);
    for (int k = low; k < high; ++k) {
      float2 a[4], b[4];
      int r = row - row0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        reinterpret_cast<float4*>(a)[i] = reinterpret_cast<const float4*>(&w[k][r])[i];
        reinterpret_cast<float4*>(b)[i] = reinterpret_cast<const float4*>(&x[k][column])[i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) fma_complex(sum[i][j], a[i], b[j]);
    }
  }
  if (column >= width) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (row + i >= rows) break;
    float2* y = out + g.spectrum(u, place, out_blocks, row + i) + column0 + column;
#pragma unroll
    for (int j = 0; j < 2; ++j)
      reinterpret_cast<float4*>(y)[j] =
          float4{sum[i][2 * j].x, sum[i][2 * j].y, sum[i][2 * j + 1].x, sum[i][2 * j + 1].y};
  }
}

// sums[f][r][d] = half of (E_f + E*_-f),   E_f[r][d] = sum over cells m of segment r of exp(mu - shift) <x_m*, y_(tile
// + d)>. A block per frequency and head; 16 x 16 threads, 4 x 4 pairs each. Each entry belongs to one thread
// throughout.
constexpr int kPairs = 64, kDepth = 12;
__global__ void correlate_kernel(Geometry g, Triangle t, const float* shift, const float2* cells, const float2* tiles,
                                 int channels) {
  __shared__ float2 x[kDepth][kPairs], y[kDepth][kPairs];
  extern __shared__ float2 product[];  // [kPairs][kPairs + 1]
  int f = blockIdx.x, u = blockIdx.y, entries = g.segments * g.tiles;
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  int count = to[g.tiles], blocks = g.aligned ? g.tiles : g.cells;
  float2* sums = t.sums + (int64_t(u) * (g.L + 1) + f) * entries;
  for (int e = threadIdx.x; e < entries; e += blockDim.x) sums[e] = {0, 0};
  int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  for (int side = 0; side < 2; ++side) {
    if (side == 1 && (f == 0 || f == g.L)) break;  // its own partner: the real part below
    bool own = f == 0 || f == g.L;
    int place = bit_reverse(side ? g.places() - f : f, g.log);
    Weights weights(g, t, shift, u, place);
    for (int m0 = 0; m0 < count; m0 += kPairs)
      for (int t0 = weights.cells[m0].tile / kPairs * kPairs; t0 < g.tiles; t0 += kPairs) {
        float2 sum[4][4] = {};
        for (int c0 = 0; c0 < channels; c0 += kDepth) {
          __syncthreads();
          for (int i = threadIdx.x; i < kDepth * kPairs; i += blockDim.x) {
            int c = i % kDepth, k = i / kDepth;
            bool in = c0 + c < channels;
            x[c][k] = in && m0 + k < count ? cells[g.spectrum(u, place, blocks, m0 + k) + c0 + c] : float2{0, 0};
            y[c][k] = in && t0 + k < g.tiles ? tiles[g.spectrum(u, place, g.tiles, t0 + k) + c0 + c] : float2{0, 0};
          }
          __syncthreads();
          for (int c = 0; c < kDepth; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              float2 a = conjugate(x[c][row + i]);
#pragma unroll
              for (int j = 0; j < 4; ++j) fma_complex(sum[i][j], a, y[c][column + j]);
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) product[(row + i) * (kPairs + 1) + column + j] = sum[i][j];
        __syncthreads();
        for (int e = threadIdx.x; e < entries; e += blockDim.x) {
          int r = e / g.tiles, d = e % g.tiles, start = g.start(u, r);
          if (start >= g.T) continue;
          int end = r + 1 < g.segments ? min(g.T, g.start(u, r + 1)) : g.T;
          // Cells of segment r in this block of 64.
          int low = to[start / g.L], high = to[(end - 1) / g.L + 1];
          float2 total{0, 0};
          for (int m = max(low, m0); m < min(high, m0 + kPairs); ++m) {
            Cell c = weights.cells[m];
            int tile = c.tile + d;
            if (c.segment != r || tile < t0 || tile >= min(g.tiles, t0 + kPairs)) continue;
            float s = weights.scale(tile, c);
            float2 p = product[(m - m0) * (kPairs + 1) + tile - t0];
            total.x += s * p.x, total.y += s * p.y;
          }
          float half = own ? 1.0f : 0.5f, sign = own ? 0.0f : side ? -0.5f : 0.5f;
          sums[e].x += half * total.x, sums[e].y += sign * total.y;
        }
      }
  }
}

template <bool Transposed>
void launch_mix(const Geometry& g, const Triangle& t, const float* shift, const float2* in, float2* out,
                Device device) {
  int groups = std::min(kGroups, g.columns / 4), column_blocks = int(ceil_div(g.columns / 4, kGroups));
  int row_blocks = int(ceil_div(Transposed ? g.cells : g.tiles, kRows));
  launch_shared(mix_kernel<Transposed>, device,
                dim3(unsigned(1 << g.log), unsigned(row_blocks * column_blocks), unsigned(g.units)), kRows / 4 * groups,
                0, g, t, shift, in, out);
}

}  // namespace

void mix(const Geometry& g, const Triangle& t, const float* shift, const float2* cells, float2* tiles, Device device) {
  launch_mix<false>(g, t, shift, cells, tiles, device);
}
void mix_transposed(const Geometry& g, const Triangle& t, const float* shift, const float2* tiles, float2* cells,
                    Device device) {
  launch_mix<true>(g, t, shift, tiles, cells, device);
}
void correlate(const Geometry& g, const Triangle& t, const float* shift, const float2* cells, const float2* tiles,
               Device device) {
  int channels = (g.Dv + 1) / 2 + 1;
  launch_shared(correlate_kernel, device, dim3(unsigned(g.L + 1), unsigned(g.units)), 256,
                sizeof(float2) * kPairs * (kPairs + 1), g, t, shift, cells, tiles, channels);
}

}  // namespace basis::ops::conv_cuda
