#include <cmath>
#include <limits>
#include <vector>

#include "core/basic/basic.h"
#include "core/gemm/gemm.h"
#include "core/parallel.h"
#include "ops/common/math.h"
#include "ops/fused_attention/fused_attention.h"

namespace basis::ops {
namespace {

constexpr int64_t kRows = 64, kKeys = 128;  // a tile: its scores fit the L1/L2 cache

template <class T>
struct Tile {
  const AttentionShape& n;
  const AttentionOptions& o;
  int64_t b, h, row0, rows;

  int64_t key_limit() const {
    return o.key_lengths ? std::clamp<int64_t>(o.key_lengths.data<int32_t>()[b], 0, n.S) : n.S;
  }
  VisibleKeys visible(int64_t r) const {
    return visible_keys(o.causal, o.window, o.sink, row0 + r + n.S - n.T, key_limit());
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
  uint64_t index(int64_t r, int64_t j) const { return uint64_t(((b * n.H + h) * n.T + row0 + r) * n.S + j); }

  // s [rows, kKeys] = -inf where hidden.
  void hide(T* s, int64_t k0, int64_t keys) const {
    if (sees_all(k0, keys)) return;
    for (int64_t r = 0; r < rows; ++r) {
      VisibleKeys v = visible(r);
      for (int64_t j = 0; j < keys; ++j)
        if (!v.contains(k0 + j)) s[r * kKeys + j] = -std::numeric_limits<T>::infinity();
    }
  }
  void drop(T* p, int64_t k0, int64_t keys) const {
    if (o.dropout == 0) return;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < keys; ++j)
        p[r * kKeys + j] *= T(dropout_factor(o.dropout, o.seed, core::stream_at(o.stream, o.base), index(r, k0 + j)));
  }
};

// c = alpha op(a) op(b) + beta c on one thread (OpenBLAS does not nest inside an OpenMP region).
template <class T>
void small_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const T* a, int64_t lda, const T* b,
                int64_t ldb, double beta, T* c, int64_t ldc) {
  core::Gemm g{.trans_a = ta, .trans_b = tb, .m = m, .n = n, .k = k};
  g.a = a, g.b = b, g.c = c, g.lda = lda, g.ldb = ldb, g.ldc = ldc, g.alpha = alpha, g.beta = beta;
  core::gemm(g, core::dtype_of<T>(), core::cpu);
}

// One step of the running softmax: s becomes e^(s - max), and the earlier sums and outputs are rescaled.
template <class T>
void online_softmax(T* s, int64_t rows, int64_t keys, T* top, T* sum, T* out, int64_t ldo, int64_t dv) {
  for (int64_t r = 0; r < rows; ++r) {
    T* row = s + r * kKeys;
    T m = top[r];
    for (int64_t j = 0; j < keys; ++j) m = row[j] > m ? row[j] : m;
    if (m == -std::numeric_limits<T>::infinity()) {  // nothing seen so far
      std::fill(row, row + keys, T(0));
      continue;
    }
    T rescale = fast_exp(top[r] - m), add = 0;
    for (int64_t j = 0; j < keys; ++j) row[j] = fast_exp(row[j] - m);
    for (int64_t j = 0; j < keys; ++j) add += row[j];
    sum[r] = sum[r] * rescale + add;
    top[r] = m;
    if (rescale != 1)
      for (int64_t d = 0; d < dv; ++d) out[r * ldo + d] *= rescale;
  }
}

template <class T>
void forward_tile(const Tile<T>& t, const T* q, const T* k, const T* v, T* out, T* lse, T* s) {
  const auto& n = t.n;
  int64_t ldq = n.H * n.D, ldk = n.Hkv * n.D, ldv = n.Hkv * n.Dv, ldo = n.H * n.Dv;
  T top[kRows], sum[kRows];
  std::fill(top, top + t.rows, -std::numeric_limits<T>::infinity());
  std::fill(sum, sum + t.rows, T(0));
  for (int64_t r = 0; r < t.rows; ++r) std::fill(out + r * ldo, out + r * ldo + n.Dv, T(0));
  for (int64_t k0 = 0; k0 < n.S; k0 += kKeys) {
    int64_t keys = std::min(kKeys, n.S - k0);
    if (!t.touches(k0, keys)) continue;
    small_gemm(false, true, t.rows, keys, n.D, n.scale, q, ldq, k + k0 * ldk, ldk, 0, s, kKeys);
    t.hide(s, k0, keys);
    online_softmax(s, t.rows, keys, top, sum, out, ldo, n.Dv);
    t.drop(s, k0, keys);
    small_gemm(false, false, t.rows, n.Dv, keys, 1, s, kKeys, v + k0 * ldv, ldv, 1, out, ldo);
  }
  for (int64_t r = 0; r < t.rows; ++r) {
    T inverse = sum[r] > 0 ? 1 / sum[r] : T(0);
    for (int64_t d = 0; d < n.Dv; ++d) out[r * ldo + d] *= inverse;
    lse[r] = top[r] + std::log(sum[r]);  // -inf + -inf where nothing is visible
  }
}

template <class T>
void forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o, const Tensor& out,
             const Tensor& lse) {
  AttentionShape n = check_attention(q, k, v, o, "fused_attention");
  int64_t tiles = (n.T + kRows - 1) / kRows, units = n.B * n.H * tiles;
#pragma omp parallel if (units > 1)
  {
    std::vector<T> s(size_t(kRows * kKeys));
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit) {
      int64_t tile = tiles - 1 - unit / (n.B * n.H), b = unit % (n.B * n.H) / n.H,
              h = unit % n.H;  // longest rows first
      int64_t row0 = tile * kRows, g = h * n.Hkv / n.H;
      Tile<T> t{n, o, b, h, row0, std::min(kRows, n.T - row0)};
      forward_tile(t, q.data<T>() + ((b * n.T + row0) * n.H + h) * n.D, k.data<T>() + (b * n.S * n.Hkv + g) * n.D,
                   v.data<T>() + (b * n.S * n.Hkv + g) * n.Dv, out.data<T>() + ((b * n.T + row0) * n.H + h) * n.Dv,
                   lse.data<T>() + (b * n.H + h) * n.T + row0, s.data());
    }
  }
}

template <class T>
struct BackwardScratch {
  std::vector<T> p = std::vector<T>(size_t(kRows * kKeys)), dp = p, kept = p;
};

// All tiles of one query head: adds to dq, dk, dv, which start at zero.
template <class T>
void backward_head(Tile<T> t, const T* q, const T* k, const T* v, const T* out, const T* lse, const T* dout, T* dq,
                   T* dk, T* dv, BackwardScratch<T>& scratch) {
  const auto& n = t.n;
  int64_t ldq = n.H * n.D, ldk = n.Hkv * n.D, ldv = n.Hkv * n.Dv, ldo = n.H * n.Dv;
  T *p = scratch.p.data(), *dp = scratch.dp.data(), *kept = t.o.dropout > 0 ? scratch.kept.data() : p;
  T delta[kRows];
  for (t.row0 = 0; t.row0 < n.T; t.row0 += kRows) {
    t.rows = std::min(kRows, n.T - t.row0);
    const T *qi = q + t.row0 * ldq, *go = dout + t.row0 * ldo, *oi = out + t.row0 * ldo;
    for (int64_t r = 0; r < t.rows; ++r) {
      delta[r] = 0;
      for (int64_t d = 0; d < n.Dv; ++d) delta[r] += go[r * ldo + d] * oi[r * ldo + d];
    }
    for (int64_t k0 = 0; k0 < n.S; k0 += kKeys) {
      int64_t keys = std::min(kKeys, n.S - k0);
      if (!t.touches(k0, keys)) continue;
      small_gemm(false, true, t.rows, keys, n.D, n.scale, qi, ldq, k + k0 * ldk, ldk, 0, p, kKeys);
      t.hide(p, k0, keys);
      for (int64_t r = 0; r < t.rows; ++r) {
        T l = lse[t.row0 + r];
        bool seen = l != -std::numeric_limits<T>::infinity();
        for (int64_t j = 0; j < keys; ++j) p[r * kKeys + j] = seen ? fast_exp(p[r * kKeys + j] - l) : T(0);
      }
      small_gemm(false, true, t.rows, keys, n.Dv, 1, go, ldo, v + k0 * ldv, ldv, 0, dp, kKeys);
      if (t.o.dropout > 0) {
        std::copy(p, p + t.rows * kKeys, kept);
        t.drop(kept, k0, keys);
        t.drop(dp, k0, keys);
      }
      small_gemm(true, false, keys, n.Dv, t.rows, 1, kept, kKeys, go, ldo, 1, dv + k0 * ldv, ldv);
      for (int64_t r = 0; r < t.rows; ++r)
        for (int64_t j = 0; j < keys; ++j) dp[r * kKeys + j] = p[r * kKeys + j] * (dp[r * kKeys + j] - delta[r]);
      small_gemm(false, false, t.rows, n.D, keys, n.scale, dp, kKeys, k + k0 * ldk, ldk, 1, dq + t.row0 * ldq, ldq);
      small_gemm(true, false, keys, n.D, t.rows, n.scale, dp, kKeys, qi, ldq, 1, dk + k0 * ldk, ldk);
    }
  }
}

// One thread does all query heads that share a key head: dk and dv are summed in a fixed order without locks.
template <class T>
void backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
              const Tensor& dout, const AttentionOptions& o, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  AttentionShape n = check_attention(q, k, v, o, "fused_attention");
  for (const Tensor& t : {dq, dk, dv}) core::fill(t, 0);
  int64_t units = n.B * n.Hkv, group = n.H / n.Hkv;
#pragma omp parallel if (units > 1)
  {
    BackwardScratch<T> scratch;
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit) {
      int64_t b = unit / n.Hkv, g = unit % n.Hkv, key = (b * n.S * n.Hkv + g);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        int64_t row = b * n.T * n.H + h;
        backward_head(Tile<T>{n, o, b, h, 0, 0}, q.data<T>() + row * n.D, k.data<T>() + key * n.D,
                      v.data<T>() + key * n.Dv, out.data<T>() + row * n.Dv, lse.data<T>() + (b * n.H + h) * n.T,
                      dout.data<T>() + row * n.Dv, dq.data<T>() + row * n.D, dk.data<T>() + key * n.D,
                      dv.data<T>() + key * n.Dv, scratch);
      }
    }
  }
}

REGISTER_KERNEL(fused_attention_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(fused_attention_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(fused_attention_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(fused_attention_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
