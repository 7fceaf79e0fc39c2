// Rows that do not go through the FFT, sixteen neighbours at a time: such rows lie close together, and neighbours share
// keys, values and logits. A group is rows [16 n, 16 n + 16) of a head, of which at least one is evaluated directly.
//
// No pair needs a product of a query and a key: logit(i, j) is entry i + `offset` of a row of scores, so that a tile of
// the attention matrix is a slice of that row, sheared. Products with values and gradients run on the tensor cores.
//
// Beside whole rows there are edges: the pairs of a tile's rows with the cell before the tile.
#pragma once

#include "core/cuda/mma_tf32.cuh"
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {

constexpr int kSide = 64;              // keys, rows and channels of a tile
constexpr int kRowStride = kSide + 8;  // of a tile in shared memory: no bank conflicts
constexpr int kSideGroups = kSide / kGroup;

// Entry of a head's scores at which row i meets key j: i + lower_offset below and on the diagonal, j + upper_offset
// above it.
__device__ __forceinline__ int64_t lower_offset(const Geometry& g, int u, int j) {
  int r = g.segment_of(u, j);
  return int64_t(r) * g.T + g.start(u, r) - j;
}
__device__ __forceinline__ int64_t upper_offset(const Geometry& g, int u, int i) { return lower_offset(g, u, i); }

template <class T>
__device__ float pair_dot(const T* x, const T* y, int n) {
  float sum = 0;
  for (int d = 0; d < n; ++d) sum += widen(x[d]) * widen(y[d]);
  return sum;
}

// Channels [d0, d0 + 64) of rows from(0), from(1), ... into a tile; null: zeros. Four: they may be read four
// at a time.
template <int Threads, class T, class From>
__device__ __forceinline__ void stage(const Geometry& g, bool four, float* tile, int rows, int d0, From from) {
  if (four) {
#pragma unroll 4
    for (int e = threadIdx.x; e < rows * (kSide / 4); e += Threads) {
      int s = e / (kSide / 4), d = e % (kSide / 4) * 4;
      const T* row = from(s);
      float4 x{0, 0, 0, 0};
      if (row && d0 + d < g.Dv) {
        Vec<T, 4> y = load_vec<4>(row + d0 + d);
        x = {widen(y.v[0]), widen(y.v[1]), widen(y.v[2]), widen(y.v[3])};
      }
      *reinterpret_cast<float4*>(&tile[s * kRowStride + d]) = x;
    }
  } else {
    for (int e = threadIdx.x; e < rows * kSide; e += Threads) {
      int s = e / kSide, d = e % kSide;
      const T* row = from(s);
      tile[s * kRowStride + d] = row && d0 + d < g.Dv ? widen(row[d0 + d]) : 0.0f;
    }
  }
}

// Row i's logsumexp where it belongs here, as a whole or with its edge, else infinity: its probabilities are 0.
template <bool Edges, class T>
__device__ __forceinline__ float row_lse(const Geometry& g, const RowTensors<T>& x, int u, int i) {
  int64_t row = int64_t(u) * g.T + i;
  if (i >= g.T || !(Edges ? x.direct[row] == kEdge : (x.direct[row] & kWhole) != 0)) return INFINITY;
  float l = x.lse[row];
  return l == -INFINITY ? INFINITY : l;
}

template <bool Exact>
__device__ __forceinline__ float exponential(float x) {
  return Exact ? expf(x) : __expf(x);
}

}  // namespace basis::ops::conv_cuda
