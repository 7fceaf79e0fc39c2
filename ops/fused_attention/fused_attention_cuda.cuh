// What our CUDA attention kernels know of a call, and which keys a tile of queries sees. A block of threads works on
// one tile of queries or keys of one head; sums and statistics are in f32 (f64 for f64).
#pragma once

#include "core/cuda/launch.cuh"
#include "ops/fused_attention/fused_attention.h"

namespace basis::ops::fused {

using namespace core;

// Keys one query sees: see VisibleKeys.
struct Seen {
  int sink, low, high;
  __device__ bool contains(int j) const { return j < sink || (j >= low && j < high); }
};

// The key tiles, `width` keys each, that some row of a tile of queries sees.
struct KeyTiles {
  int sinks, begin, count;
  __device__ int operator()(int n) const { return n < sinks ? n : begin + n - sinks; }
};

// Rows' ranges move right from row to row, so the first and the last row of a tile decide.
struct SeenByRows {
  Seen first, last;
  __device__ int sink() const { return max(first.sink, last.sink); }
  __device__ bool touches(int k0, int width) const { return k0 < sink() || (k0 + width > first.low && k0 < last.high); }
  __device__ bool all(int k0, int width) const { return last.low <= k0 && k0 + width <= first.high; }
  __device__ KeyTiles tiles(int width) const {
    int sinks = (sink() + width - 1) / width, begin = max(sinks, first.low / width);
    return {sinks, begin, sinks + max(begin, (last.high + width - 1) / width) - begin};
  }
};

// Rows [begin, end) of queries.
struct QueryRows {
  int begin, end;
};

// Rows of one head in a [B,rows,heads,width] tensor.
template <class T>
struct Rows {
  T* data;
  int64_t stride;  // elements
  int width;
  __device__ Rows from(int row) const { return {data + row * stride, stride, width}; }
};

struct Call {
  int B, T, S, H, Hkv, D, Dv, group;  // group: query heads of a key head
  double scale;
  bool causal;
  int64_t window, sink;
  const int32_t* key_lengths;  // [B] or null
  float dropout, kept;         // kept ones are multiplied by this
  uint64_t seed, stream;
  const uint64_t* base;  // or null: added to stream

  __device__ int keys(int b) const { return key_lengths ? min(max(key_lengths[b], 0), S) : S; }
  __device__ Seen seen(int keys, int i) const {
    VisibleKeys v = visible_keys(causal, window, sink, int64_t{i} + S - T, keys);
    return {int(v.sink), int(v.low), int(v.high)};
  }
  __device__ SeenByRows seen_by_rows(int keys, int row0, int rows) const {
    return {seen(keys, row0), seen(keys, min(row0 + rows, T) - 1)};
  }
  // A range that holds every row that sees a key of [k0, k0 + width).
  __device__ QueryRows rows_that_see(int keys, int k0, int width) const {
    if (k0 >= keys) return {0, 0};
    bool everywhere = window == 0 || k0 < sink;                 // as far as the causal mask allows
    int64_t begin = 0, end = T, first = int64_t{k0} - (S - T);  // the row whose own key is k0
    if (causal)
      begin = first;
    else if (!everywhere)
      begin = first - window + 1;
    if (!everywhere) end = first + width - 1 + window;
    return {int(max(begin, int64_t{0})), int(min(end, int64_t{T}))};
  }
  __device__ int64_t query(int b, int i, int h, int width) const { return ((int64_t{b} * T + i) * H + h) * width; }
  __device__ int64_t key(int b, int j, int g, int width) const { return ((int64_t{b} * S + j) * Hkv + g) * width; }
  // From row i or j on.
  template <class T>
  __device__ Rows<T> query_rows(const void* tensor, int b, int i, int h, int width) const {
    return {static_cast<T*>(const_cast<void*>(tensor)) + query(b, i, h, width), int64_t{H} * width, width};
  }
  template <class T>
  __device__ Rows<T> key_rows(const void* tensor, int b, int j, int g, int width) const {
    return {static_cast<T*>(const_cast<void*>(tensor)) + key(b, j, g, width), int64_t{Hkv} * width, width};
  }
  __device__ int64_t row(int b, int h, int i) const { return (int64_t{b} * H + h) * T + i; }  // of lse, delta
  // Dropout factors of the probabilities (row, j) and (row, j + 1).
  __device__ float2 factors(int64_t row, int j) const {
    uint64_t at = uint64_t(row) * uint64_t(S) + uint64_t(j);
    uint64_t now = stream_at(stream, base);
    Philox4 r = philox(seed, now, at / 4);
    uint32_t one, two;
    switch (at % 4) {
      case 0:
        one = r.x, two = r.y;
        break;
      case 1:
        one = r.y, two = r.z;
        break;
      case 2:
        one = r.z, two = r.w;
        break;
      default:
        one = r.w, two = philox(seed, now, at / 4 + 1).x;
    }
    return {uniform_from_bits(one) >= dropout ? kept : 0.0f, uniform_from_bits(two) >= dropout ? kept : 0.0f};
  }
  __device__ float factor(int64_t row, int j) const { return factors(row, j).x; }
};

// The tensors of one call; those of backward are null in forward. delta [B,H,T] holds <do, o>, like lse in f32 or f64.
struct Pointers {
  const void *q, *k, *v, *dout;
  void *o, *lse, *delta, *dq, *dk, *dv;
};

// A grid of one block per tile and head.
inline dim3 tile_grid(int64_t tiles, int64_t heads) {
  if (tiles * heads > INT32_MAX) throw Error({.where = "fused_attention", .expected = "fewer than 2^31 tiles on CUDA"});
  return dim3(unsigned(tiles * heads));
}

// Tensor-core kernels for bf16 and f16. False, having done nothing, for a call they do not take. On sm_90:
bool hopper_forward(const Call& call, const Pointers& p, DType dtype, Device device);
bool hopper_backward(const Call& call, const Pointers& p, DType dtype, Device device);
// On sm_80 and later:
bool mma_forward(const Call& call, const Pointers& p, DType dtype, Device device);
bool mma_backward(const Call& call, const Pointers& p, DType dtype, Device device);
// Kernels without tensor cores: f64, f32 and whatever the others leave. D, Dv <= 256, else core::Error.
void plain_forward(const Call& call, const Pointers& p, DType dtype, Device device);
void plain_backward(const Call& call, const Pointers& p, DType dtype, Device device);

}  // namespace basis::ops::fused
