// Rows that do not go through the FFT, sixteen neighbours at a time: such rows lie close together, and neighbours share
// keys, values and logits. A group is rows [16 n, 16 n + 16) of a head, of which at least one is evaluated directly.
//
// No pair needs a product of a query and a key: logit(i, j) is entry i + `offset` of a row of scores, so that a tile of
// the attention matrix is a slice of that row, sheared. Products with values and gradients run on the tensor cores.
//
// Beside whole rows there are edges: the pairs of a tile's rows with the cell before the tile.
#pragma once

#include "core/cuda/copy_async.cuh"
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

// Channels [d0, d0 + 64) of rows from(0), from(1), ... into a tile; null: zeros. Aligned: by copies that must be waited
// for.
template <int Threads, class T, class From>
__device__ __forceinline__ void stage(const Geometry& g, bool aligned, T* tile, int rows, int d0, From from) {
  constexpr int width = 16 / int(sizeof(T)), chunks = kSide / width;
  if (aligned) {
    for (int e = threadIdx.x; e < rows * chunks; e += Threads) {
      int s = e / chunks, d = e % chunks * width;
      const T* row = from(s);
      bool valid = row && d0 + d < g.Dv;
      copy16_async(&tile[s * kRowStride + d], valid ? row + d0 + d : tile, valid);
    }
  } else {
    for (int e = threadIdx.x; e < rows * kSide; e += Threads) {
      int s = e / kSide, d = e % kSide;
      const T* row = from(s);
      tile[s * kRowStride + d] = row && d0 + d < g.Dv ? row[d0 + d] : device_convert<T>(0.0f);
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

// How many of the groups listed end before `row` or at it.
__device__ __forceinline__ int groups_before(const int* listed, int count, int row) {
  int n = 0;
  while (n < count) {
    int middle = (n + count) / 2;
    if ((listed[middle] + 1) * kGroup <= row)
      n = middle + 1;
    else
      count = middle;
  }
  return n;
}

template <bool Exact>
__device__ __forceinline__ float exponential(float x) {
  return Exact ? expf(x) : __expf(x);
}

}  // namespace basis::ops::conv_cuda
