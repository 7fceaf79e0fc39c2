// One head of conv-basis attention on the CPU: where its rows lie, its logits by definition, and rows evaluated one by
// one.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/gemm/gemm.h"
#include "ops/conv_basis/conv_basis.h"
#include "ops/conv_basis/partition.h"

namespace basis::ops {

// The breakpoints of head h of batch entry b that lie below T.
std::vector<int64_t> breakpoints_of(const ConvBasisOptions& o, int64_t T, int64_t H, int64_t b, int64_t h);

template <class T>
struct Head {
  Head(const Tensor& tq, const Tensor& tk, const Tensor& tv, const ConvBasisOptions& o, const ConvBasisShape& shape,
       int64_t b, int64_t h);

  // low[r][p] = scale q[p] . k[s_r] and up[r][p] = scale q[s_r] . k[p]; without them logits are computed one by one.
  void score_segments();

  const T* query(int64_t i) const { return q + i * n.H * n.D; }
  const T* key(int64_t j) const { return k + j * n.Hkv * n.D; }
  const T* value(int64_t j) const { return v + j * n.Hkv * n.Dv; }
  bool near(int64_t i, int64_t j) const { return std::abs(i - j) < options.window; }
  int64_t last_key(int64_t i) const { return options.causal && i + 1 < keys ? i + 1 : keys; }

  // Where the logit of a pair that is not near stands in low (j <= i) or up.
  int64_t place(int64_t i, int64_t j) const {
    int64_t r = partition.segment[size_t(j <= i ? j : i)];
    return r * n.T + partition.starts[size_t(r)] + (j <= i ? i - j : j - i);
  }
  T logit(int64_t i, int64_t j) const {
    if (near(i, j)) return score(i, j);
    if (low) return (j <= i ? low : up).template data<T>()[place(i, j)];
    int64_t s = partition.starts[size_t(partition.segment[size_t(j <= i ? j : i)])];
    return j <= i ? score(s + i - j, s) : score(s, s + j - i);
  }
  T score(int64_t i, int64_t j) const {
    T sum = 0;
    const T *x = query(i), *y = key(j);
    for (int64_t d = 0; d < n.D; ++d) sum += x[d] * y[d];
    T logit = T(n.scale) * sum;
    return std::isfinite(logit) ? logit : bounded(x, y);
  }
  // The logit of finite vectors whose product leaves the range of T: the nearest number within it.
  T bounded(const T* x, const T* y) const {
    long double sum = 0, most = std::numeric_limits<T>::max();
    for (int64_t d = 0; d < n.D; ++d) sum += (long double)(x[d]) * y[d];
    return T(std::clamp<long double>((long double)(n.scale) * sum, -most, most));
  }

  // Row i from its logits: o [Dv] and the log of the sum of exp. `p` is scratch [T] and holds the probabilities.
  T direct_row(int64_t i, T* p, T* o) const;

  const ConvBasisShape& n;
  const ConvBasisOptions& options;
  const T *q, *k, *v;
  int64_t keys;  // visible ones
  Partition partition;
  Tensor low, up;              // [segments, T]
  Tensor keys_at, queries_at;  // [segments, D] at the breakpoints
};

template <class T>
Head<T>::Head(const Tensor& tq, const Tensor& tk, const Tensor& tv, const ConvBasisOptions& o,
              const ConvBasisShape& shape, int64_t b, int64_t h)
    : n(shape),
      options(o),
      q(tq.data<T>() + (b * n.T * n.H + h) * n.D),
      k(tk.data<T>() + (b * n.T * n.Hkv + h * n.Hkv / n.H) * n.D),
      v(tv.data<T>() + (b * n.T * n.Hkv + h * n.Hkv / n.H) * n.Dv),
      keys(o.key_lengths ? std::clamp<int64_t>(o.key_lengths.data<int32_t>()[b], 0, n.T) : n.T),
      partition(n.T, choose_tile(o, n.T, n.segments), breakpoints_of(o, n.T, n.H, b, h)) {}

template <class T>
void Head<T>::score_segments() {
  int64_t segments = partition.segments();
  auto gathered = [&](const T* x, int64_t stride) {
    Tensor rows = Tensor::empty({segments, n.D}, core::dtype_of<T>());
    for (int64_t r = 0; r < segments; ++r)
      std::copy_n(x + partition.starts[size_t(r)] * stride, n.D, rows.data<T>() + r * n.D);
    return rows;
  };
  auto product = [&](const Tensor& rows, const T* all, int64_t stride) {
    Tensor out = Tensor::empty({segments, n.T}, core::dtype_of<T>());
    core::gemm({.trans_b = true,
                .m = segments,
                .n = n.T,
                .k = n.D,
                .a = rows.raw(),
                .b = all,
                .c = out.raw(),
                .lda = n.D,
                .ldb = stride,
                .ldc = n.T,
                .alpha = n.scale,
                .beta = 0},
               core::dtype_of<T>(), cpu);
    T* logits = out.data<T>();
    T sum = 0;  // not a number where a logit is none
    for (int64_t i = 0; i < segments * n.T; ++i) sum += logits[i] - logits[i];
    for (int64_t i = 0; sum != 0 && i < segments * n.T; ++i)
      if (!std::isfinite(logits[i])) logits[i] = bounded(rows.data<T>() + i / n.T * n.D, all + i % n.T * stride);
    return out;
  };
  keys_at = gathered(k, n.Hkv * n.D);
  low = product(keys_at, q, n.H * n.D);
  if (options.causal) return;
  queries_at = gathered(q, n.H * n.D);
  up = product(queries_at, k, n.Hkv * n.D);
}

template <class T>
T Head<T>::direct_row(int64_t i, T* p, T* o) const {
  std::fill(o, o + n.Dv, T(0));
  T top = -std::numeric_limits<T>::infinity(), sum = 0;
  int64_t end = last_key(i);
  for (int64_t j = 0; j < end; ++j) top = std::max(top, p[j] = logit(i, j));
  if (end == 0) return top;
  for (int64_t j = 0; j < end; ++j) sum += p[j] = std::exp(p[j] - top);
  for (int64_t j = 0; j < end; ++j) {
    p[j] /= sum;
    const T* row = value(j);
    for (int64_t d = 0; d < n.Dv; ++d) o[d] += p[j] * row[d];
  }
  return top + std::log(sum);
}

}  // namespace basis::ops
