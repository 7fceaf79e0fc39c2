// Between the CPU kernels of fused attention and what drives them: the geometry of a block of queries, and one table of
// functions per vector width, of which the widest that the processor has is taken when the program runs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/common/attention.h"

namespace basis::ops::cpu_attention {

constexpr int64_t kRows = 64;  // queries of a block
template <class T>
constexpr int64_t kKeys = 512 / int64_t(sizeof(T));  // keys of a tile: its scores and its keys lie in L1 and L2
template <class T>
constexpr int64_t kStride = kKeys<T> + 64 / int64_t(sizeof(T));  // of a tile's rows: neighbours in different cache sets

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// `rows` queries from row0 on, of one head.
struct Block {
  const AttentionShape& n;
  const AttentionOptions& o;
  int64_t b, h, row0, rows;

  VisibleKeys visible(int64_t r) const {
    int64_t limit = o.key_lengths ? std::clamp<int64_t>(o.key_lengths.data<int32_t>()[b], 0, n.S) : n.S;
    return visible_keys(o.causal, o.window, o.sink, row0 + r + n.S - n.T, limit);
  }
  // Does any row see a key of [k0, k0 + keys)? Rows' ranges move right with r, so the first and last row decide.
  bool touches(int64_t k0, int64_t keys) const {
    VisibleKeys first = visible(0), last = visible(rows - 1);
    return k0 < std::max(first.sink, last.sink) || (k0 + keys > first.low && k0 < last.high);
  }
  bool sees_all(int64_t k0, int64_t keys) const {
    VisibleKeys first = visible(0), last = visible(rows - 1);
    return last.low <= k0 && k0 + keys <= first.high;
  }
  float dropout(int64_t r, int64_t key) const {
    uint64_t index = uint64_t(((b * n.H + h) * n.T + row0 + r) * n.S + key);
    return dropout_factor(o.dropout, o.seed, core::stream_at(o.stream, o.base), index);
  }
};

// One key head, packed: panels of `width` columns, each panel's rows one after the other, padded with zeros.
template <class T>
struct PackedKeys {
  T* k_transposed;  // [S/width][D][width]
  T* v_transposed;  // [S/width][Dv][width], backward only
  T* k;             // [D/width][S][width], backward only
  T* v;             // [Dv/width][S][width], forward only
};

// Rows of one head in the tensors of the call, from the block's first on.
template <class T>
struct BlockData {
  const T *q, *out, *dout;
  T *o, *lse, *dq;
};

template <class T>
struct Kernels {
  int64_t width;  // columns of a panel
  // Keys [k0, k0 + keys) of k [S, .] and v [S, .] with row strides ldk, ldv; k0 a multiple of width. What is null in
  // `to` is not packed.
  void (*pack)(const AttentionShape&, const T* k, int64_t ldk, const T* v, int64_t ldv, int64_t k0, int64_t keys,
               const PackedKeys<T>& to);
  void (*forward)(const Block&, const BlockData<T>&, const PackedKeys<T>&, T* scratch);
  // Adds to dk [S, D] and dv [S, Dv], rows and columns rounded up to width.
  void (*backward)(const Block&, const BlockData<T>&, const PackedKeys<T>&, T* dk, T* dv, T* scratch);
  int64_t (*scratch)(const AttentionShape&);  // elements that forward or backward needs
};

// nullptr where this build or this processor lacks the instructions.
template <class T>
const Kernels<T>* kernels_avx512();
template <class T>
const Kernels<T>* kernels_avx2();

}  // namespace basis::ops::cpu_attention
