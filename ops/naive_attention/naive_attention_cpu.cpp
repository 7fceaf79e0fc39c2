#include "core/basic/basic.h"
#include "core/parallel.h"
#include "ops/naive_attention/naive_attention.h"

namespace basis::ops {
namespace {

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Row pointers into [B,T,H,D] tensors, and the mask and dropout factor of one probability.
template <class T>
struct Geometry {
  AttentionShape n;
  const AttentionOptions& o;
  const T *q, *k, *v;

  Geometry(const Tensor& tq, const Tensor& tk, const Tensor& tv, const AttentionOptions& options)
      : n(check_attention(tq, tk, tv, options, "naive_attention")),
        o(options),
        q(tq.data<T>()),
        k(tk.data<T>()),
        v(tv.data<T>()) {}

  int64_t q_at(int64_t b, int64_t i, int64_t h) const { return ((b * n.T + i) * n.H + h) * n.D; }
  int64_t k_at(int64_t b, int64_t j, int64_t h) const { return ((b * n.S + j) * n.Hkv + h * n.Hkv / n.H) * n.D; }
  int64_t v_at(int64_t b, int64_t j, int64_t h) const { return ((b * n.S + j) * n.Hkv + h * n.Hkv / n.H) * n.Dv; }
  int64_t o_at(int64_t b, int64_t i, int64_t h) const { return ((b * n.T + i) * n.H + h) * n.Dv; }
  int64_t p_at(int64_t b, int64_t h, int64_t i) const { return ((b * n.H + h) * n.T + i) * n.S; }

  VisibleKeys visible(int64_t b, int64_t i) const {
    int64_t keys = o.key_lengths ? std::clamp<int64_t>(o.key_lengths.data<int32_t>()[b], 0, n.S) : n.S;
    return visible_keys(o.causal, o.window, o.sink, i + n.S - n.T, keys);
  }
  T factor(int64_t index) const {
    return o.dropout > 0 ? T(dropout_factor(o.dropout, o.seed, core::stream_at(o.stream, o.base), uint64_t(index)))
                         : T(1);
  }
};

template <class T>
void softmax_row(T* p, int64_t n, const VisibleKeys& visible) {
  T top = -INFINITY, sum = 0;
  for (int64_t j = 0; j < n; ++j)
    if (visible.contains(j)) top = std::max(top, p[j]);
  for (int64_t j = 0; j < n; ++j) sum += p[j] = visible.contains(j) ? std::exp(p[j] - top) : T(0);
  for (int64_t j = 0; j < n; ++j) p[j] = sum > 0 ? p[j] / sum : T(0);
}

template <class T>
void forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options, const Tensor& out,
             const Tensor& probabilities) {
  Geometry<T> g(q, k, v, options);
  const auto& n = g.n;
  core::parallel_for(n.B * n.H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t bh = begin; bh < end; ++bh) {
      int64_t b = bh / n.H, h = bh % n.H;
      for (int64_t i = 0; i < n.T; ++i) {
        T *p = probabilities.data<T>() + g.p_at(b, h, i), *o = out.data<T>() + g.o_at(b, i, h);
        for (int64_t j = 0; j < n.S; ++j) p[j] = T(n.scale) * dot(g.q + g.q_at(b, i, h), g.k + g.k_at(b, j, h), n.D);
        softmax_row(p, n.S, g.visible(b, i));
        std::fill(o, o + n.Dv, T(0));
        for (int64_t j = 0; j < n.S; ++j) {
          T weight = p[j] * g.factor(g.p_at(b, h, i) + j);
          const T* row = g.v + g.v_at(b, j, h);
          for (int64_t d = 0; d < n.Dv; ++d) o[d] += weight * row[d];
        }
      }
    }
  });
}

template <class T>
void backward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
              const Tensor& probabilities, const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  Geometry<T> g(q, k, v, options);
  const auto& n = g.n;
  for (const Tensor& t : {dq, dk, dv}) core::fill(t, 0);
  int64_t group = n.H / n.Hkv;
  core::parallel_for(n.B * n.Hkv, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> dp(size_t(n.S));
    for (int64_t unit = begin; unit < end; ++unit)
      for (int64_t h = unit % n.Hkv * group; h < (unit % n.Hkv + 1) * group; ++h)
        for (int64_t b = unit / n.Hkv, i = 0; i < n.T; ++i) {
          const T *p = probabilities.data<T>() + g.p_at(b, h, i), *go = dout.data<T>() + g.o_at(b, i, h);
          T mean = 0;
          for (int64_t j = 0; j < n.S; ++j) {
            T m = g.factor(g.p_at(b, h, i) + j);
            dp[size_t(j)] = m * dot(go, g.v + g.v_at(b, j, h), n.Dv);
            mean += p[j] * dp[size_t(j)];
            T* gv = dv.data<T>() + g.v_at(b, j, h);
            for (int64_t d = 0; d < n.Dv; ++d) gv[d] += p[j] * m * go[d];
          }
          T* gq = dq.data<T>() + g.q_at(b, i, h);
          for (int64_t j = 0; j < n.S; ++j) {
            T ds = T(n.scale) * p[j] * (dp[size_t(j)] - mean);
            T* gk = dk.data<T>() + g.k_at(b, j, h);
            for (int64_t d = 0; d < n.D; ++d) {
              gq[d] += ds * g.k[g.k_at(b, j, h) + d];
              gk[d] += ds * g.q[g.q_at(b, i, h) + d];
            }
          }
        }
  });
}

REGISTER_KERNEL(naive_attention_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(naive_attention_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(naive_attention_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(naive_attention_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
