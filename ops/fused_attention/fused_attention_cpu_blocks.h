// Attention of one block of queries on packed keys, forward and backward, for the vectors of S (a Simd).
#pragma once

#include <cmath>
#include <limits>

#include "ops/fused_attention/fused_attention_cpu_simd.h"

namespace basis::ops::cpu_attention {

// The keys that each group of rows computes of one tile, a multiple of the panel's width: none beyond what it can see.
template <class S>
struct Reach {
  static constexpr int kGroups = int(kRows) / S::kGroup;
  int groups;  // those with rows
  int64_t limit[kGroups];

  Reach(const Block& block, int64_t k0, int64_t keys) {
    groups = int((block.rows + S::kGroup - 1) / S::kGroup);
    for (int g = 0; g < groups; ++g) {
      VisibleKeys v = block.visible(std::min<int64_t>((g + 1) * S::kGroup, block.rows) - 1);
      int64_t end = std::clamp<int64_t>(std::max(v.high, v.sink) - k0, 0, keys);
      limit[g] = round_up(end, S::kWidth);
      if (g > 0 && limit[g] < limit[g - 1]) limit[g] = limit[g - 1];
    }
  }
  // The first group that computes key j of the tile.
  int first(int64_t j) const {
    int g = 0;
    while (g < groups && limit[g] <= j) ++g;
    return g;
  }
};

template <class S>
struct Blocks {
  using T = typename S::Element;
  using V = typename S::Vector;
  static constexpr int64_t W = S::kWidth, L = S::kLanes, M = S::kGroup, N = kKeys<T>, ld = kStride<T>;
  static constexpr int64_t kTile = kRows * ld;
  static constexpr T kHidden = -std::numeric_limits<T>::infinity();

  static int64_t tiles(int64_t cols) { return (cols + N - 1) / N; }

  static void pack(const AttentionShape& n, const T* k, int64_t ldk, const T* v, int64_t ldv, int64_t k0, int64_t keys,
                   const PackedKeys<T>& to) {
    k += k0 * ldk, v += k0 * ldv;
    if (to.k_transposed) pack_rows<S>(k, ldk, keys, n.D, to.k_transposed + k0 * n.D);
    if (to.v_transposed) pack_rows<S>(v, ldv, keys, n.Dv, to.v_transposed + k0 * n.Dv);
    if (to.k) pack_columns<S>(k, ldk, keys, n.D, T(1), to.k + k0 * W, n.S);
    if (to.v) pack_columns<S>(v, ldv, keys, n.Dv, T(1), to.v + k0 * W, n.S);
  }

  // s [kRows, N] = x y^T: x in tiles, y transposed in panels of the keys from k0 on.
  [[gnu::always_inline]] static inline void scores(const Reach<S>& reach, int64_t k0, int64_t cols, const T* x,
                                                   const T* y, T* s) {
    for (int64_t j = 0; j < reach.limit[reach.groups - 1]; j += W)
      for (int g = reach.first(j); g < reach.groups; ++g) {
        const T *a = x + g * M * ld, *b = y + (k0 + j) * cols;
        T* c = s + g * M * ld + j;
        multiply<S, false, ld, 1>(std::min(N, cols), a, b, c, ld);
        for (int64_t at = N; at < cols; at += N)
          multiply<S, true, ld, 1>(std::min(N, cols - at), a + at / N * kTile, b + at * W, c, ld);
      }
  }
  // c [kRows, .] += p y: y in panels of columns, from key k0 on.
  [[gnu::always_inline]] static inline void add_rows(const Reach<S>& reach, int64_t k0, int64_t keys, int64_t S_,
                                                     int64_t cols, const T* p, const T* y, T* c, int64_t ldc) {
    for (int64_t j = 0; j < cols; j += W)
      for (int g = 0; g < reach.groups; ++g)
        multiply<S, true, ld, 1>(std::min(reach.limit[g], keys), p + g * M * ld, y + j * S_ + k0 * W,
                                 c + g * M * ldc + j, ldc);
  }
  // c [keys, .] += p^T y: y [kRows, .] in panels of columns.
  [[gnu::always_inline]] static inline void add_columns(const Reach<S>& reach, int64_t cols, const T* p, const T* y,
                                                        T* c, int64_t ldc) {
    for (int64_t j = 0; j < cols; j += W)
      for (int64_t key = 0; key < reach.limit[reach.groups - 1]; key += M) {
        int64_t r = reach.first(key) * M;
        multiply<S, true, 1, ld>(reach.groups * M - r, p + r * ld + key, y + j * kRows + r * W, c + key * ldc + j, ldc);
      }
  }

  // Row r of s = -inf where hidden, over the keys that are computed.
  [[gnu::always_inline]] static inline void hide(const Block& block, int64_t r, int64_t k0, int64_t limit, T* row) {
    VisibleKeys v = block.visible(r);
    int64_t sink = std::clamp<int64_t>(v.sink - k0, 0, limit), low = std::clamp<int64_t>(v.low - k0, sink, limit);
    int64_t high = std::clamp<int64_t>(v.high - k0, sink, limit);
    for (int64_t j = sink; j < low; ++j) row[j] = kHidden;
    for (int64_t j = high; j < limit; ++j) row[j] = kHidden;
  }

  static void forward(const Block& block, const BlockData<T>& data, const PackedKeys<T>& packed, T* scratch) {
    const AttentionShape& n = block.n;
    int64_t Dv = round_up(n.Dv, W), ldo = n.H * n.Dv;
    T *q = scratch, *s = q + tiles(n.D) * kTile, *o = s + kTile;
    T top[kRows];
    V sum[kRows];
    std::fill(top, top + kRows, kHidden);
    std::fill(sum, sum + kRows, V{});
    std::fill(o, o + kRows * Dv, T(0));
    copy_tiles<S>(data.q, n.H * n.D, block.rows, n.D, T(n.scale), q);
    for (int64_t k0 = 0; k0 < n.S; k0 += N) {
      int64_t keys = std::min(N, n.S - k0);
      if (!block.touches(k0, keys)) continue;
      Reach<S> reach(block, k0, keys);
      scores(reach, k0, n.D, q, packed.k_transposed, s);
      bool all = keys == N && block.sees_all(k0, keys);
      for (int64_t r0 = 0; r0 < block.rows; r0 += M) {
        int64_t limit = reach.limit[r0 / M], end = std::min(r0 + M, block.rows);
        for (int64_t r = r0; r < end; ++r) {
          if (!all) hide(block, r, k0, limit, s + r * ld);
          raise_top(limit, s + r * ld, top[r], sum[r], o + r * Dv, Dv);
        }
        for (int64_t r = r0; r < end; ++r) exponentiate(limit, s + r * ld, top[r], sum[r]);
      }
      if (block.o.dropout > 0)
        for (int64_t r = 0; r < block.rows; ++r)
          for (int64_t j = 0; j < std::min(keys, reach.limit[r / M]); ++j) s[r * ld + j] *= T(block.dropout(r, k0 + j));
      add_rows(reach, k0, keys, n.S, n.Dv, s, packed.v, o, Dv);
    }
    for (int64_t r = 0; r < block.rows; ++r) {
      T total = S::sum(sum[r]), inverse = total > 0 ? 1 / total : total;  // 0 where nothing is visible; NaN stays
      for (int64_t d = 0; d < n.Dv; ++d) data.o[r * ldo + d] = o[r * Dv + d] * inverse;
      data.lse[r] = top[r] + std::log(total);
    }
  }

  // The maximum with a row of scores; the earlier sum and outputs are rescaled to it.
  [[gnu::always_inline]] static inline void raise_top(int64_t keys, const T* s, T& top, V& sum, T* o, int64_t Dv) {
    V m = V{} + top;
    for (int64_t j = 0; j < keys; j += L) m = S::max(S::load(s + j), m);
    T largest = S::largest(m);
    if (largest == top) return;
    if (top != kHidden) {
      V rescale = S::exp(V{} + (top - largest));
      sum *= rescale;
      for (int64_t d = 0; d < Dv; d += L) S::store(o + d, S::load(o + d) * rescale);
    }
    top = largest;
  }
  // s becomes e^(s - top), and is summed.
  [[gnu::always_inline]] static inline void exponentiate(int64_t keys, T* s, T top, V& sum) {
    T shift = top == kHidden ? T(0) : top;  // nothing seen so far: e^-inf = 0
    V add = sum;
    for (int64_t j = 0; j < keys; j += L) {
      V e = S::exp(S::load(s + j) - shift);
      S::store(s + j, e);
      add += e;
    }
    sum = add;
  }

  static void backward(const Block& block, const BlockData<T>& data, const PackedKeys<T>& packed, T* dk, T* dv,
                       T* scratch) {
    const AttentionShape& n = block.n;
    int64_t D = round_up(n.D, W), Dv = round_up(n.Dv, W), ldq = n.H * n.D, ldo = n.H * n.Dv;
    T *q = scratch, *go = q + tiles(n.D) * kTile, *p = go + tiles(n.Dv) * kTile, *dp = p + kTile, *kept = dp + kTile;
    T *q_panels = kept + kTile, *go_panels = q_panels + kRows * D, *dq = go_panels + kRows * Dv;
    int64_t padded = round_up(block.rows, M);
    copy_tiles<S>(data.q, ldq, block.rows, n.D, T(n.scale), q);
    copy_tiles<S>(data.dout, ldo, block.rows, n.Dv, T(1), go);
    std::fill(dq, dq + kRows * D, T(0));
    if (block.rows < padded) std::fill(q_panels, q_panels + kRows * (D + Dv), T(0));
    pack_columns<S>(data.q, ldq, block.rows, n.D, T(n.scale), q_panels, kRows);
    pack_columns<S>(data.dout, ldo, block.rows, n.Dv, T(1), go_panels, kRows);
    T delta[kRows] = {}, lse[kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      bool seen = r < block.rows && data.lse[r] != kHidden;
      lse[r] = seen ? data.lse[r] : -kHidden;  // e^(s - inf) = 0
      if (seen) delta[r] = dot(data.dout + r * ldo, data.out + r * ldo, n.Dv);
    }
    for (int64_t k0 = 0; k0 < n.S; k0 += N) {
      int64_t keys = std::min(N, n.S - k0);
      if (!block.touches(k0, keys)) continue;
      Reach<S> reach(block, k0, keys);
      scores(reach, k0, n.D, q, packed.k_transposed, p);
      scores(reach, k0, n.Dv, go, packed.v_transposed, dp);
      bool all = keys == N && block.sees_all(k0, keys), dropout = block.o.dropout > 0;
      for (int64_t r = 0; r < padded; ++r) {
        int64_t limit = reach.limit[r / M];
        T *pr = p + r * ld, *dpr = dp + r * ld;
        if (!all && r < block.rows) hide(block, r, k0, limit, pr);
        if (dropout) drop(block, r, k0, limit, lse[r], pr, dpr, kept + r * ld);
        for (int64_t j = 0; j < limit; j += L) {
          V e = S::exp(S::load(pr + j) - lse[r]);
          S::store(dpr + j, e * (S::load(dpr + j) - delta[r]));
          S::store(pr + j, e);
        }
      }
      add_columns(reach, n.Dv, dropout ? kept : p, go_panels, dv + k0 * Dv, Dv);
      add_columns(reach, n.D, dp, q_panels, dk + k0 * D, D);
      add_rows(reach, k0, keys, n.S, n.D, dp, packed.k, dq, D);
    }
    for (int64_t r = 0; r < block.rows; ++r)
      for (int64_t d = 0; d < n.D; ++d) data.dq[r * ldq + d] = dq[r * D + d] * T(n.scale);
  }

  [[gnu::always_inline]] static inline T dot(const T* a, const T* b, int64_t n) {
    V sum{};
    int64_t i = 0;
    for (; i + L <= n; i += L) sum += S::load(a + i) * S::load(b + i);
    T total = S::sum(sum);
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
  }

  // kept = the probabilities that dropout keeps, scaled; dp of the others becomes 0.
  static void drop(const Block& block, int64_t r, int64_t k0, int64_t limit, T lse, const T* s, T* dp, T* kept) {
    for (int64_t j = 0; j < limit; j += L) S::store(kept + j, S::exp(S::load(s + j) - lse));
    for (int64_t j = 0; j < limit; ++j) {
      T factor = k0 + j < block.n.S ? T(block.dropout(r, k0 + j)) : T(0);
      kept[j] *= factor, dp[j] *= factor;
    }
  }

  static int64_t scratch(const AttentionShape& n) {
    int64_t D = round_up(n.D, W), Dv = round_up(n.Dv, W);
    return round_up((tiles(n.D) + tiles(n.Dv) + 3) * kTile + kRows * (2 * D + 2 * Dv), 64);
  }

  static constexpr Kernels<T> table{W, pack, forward, backward, scratch};
};

}  // namespace basis::ops::cpu_attention
