// Forward of one head:  N, Dn = A [v 1] through the FFT, exact scores near the diagonal, o = N / Dn.
// Backward, with dN = do / Dn and dDn = -<do, o> / Dn as the channels of one array X (zero for rows evaluated
// directly):
//   dv = A^T X,   da_r[l] = sum_{j in segment r} <[v 1][j], X[j + l]>,   du = a da,   dq += scale du^T k_s,
//   dk_s += scale du q,   and row by row p, dv_j += p do_i, ds = p (<do_i, v_j> - <do_i, o_i>) for the other pairs.
#include <algorithm>

#include "core/basic/basic.h"
#include "core/parallel.h"
#include "ops/conv_basis/factors_cpu.h"

namespace basis::ops {
namespace {

// By row, how much smaller the values are that the row sees, in the worst channel, than those up to its tile's end (by
// channel in its unit, beside ones): what later keys and the channel that shares its transform add to it is rounding of
// theirs, not of its own. first[d] is the first key whose value is not 0 in channel d: before it rows are 0 there.
template <class T>
std::vector<T> excess(const Head<T>& h, const T* values, std::vector<int64_t>& first) {
  int64_t length = h.n.T, tile = h.partition.L;
  std::vector<T> worst(size_t(length), T(1)), seen(static_cast<size_t>(h.n.Dv), T(0));
  for (int64_t j = 0; j < length && h.options.causal; ++j) {
    T least = 1;
    for (int64_t d = 0; d < h.n.Dv; ++d) {
      T& s = seen[size_t(d)];
      s = std::max(s, std::abs(values[j * (h.n.Dv + 1) + d]));
      if (s > 0) least = std::min(least, s);
      if (s == 0) first[size_t(d)] = j + 1;
    }
    worst[size_t(j)] = 1 / least;
  }
  T most = 1;
  for (int64_t begin = 0; begin < length && h.options.causal; begin += tile) {
    int64_t end = std::min(length, begin + tile);
    for (int64_t i = begin * (h.n.Dv + 1); i < end * (h.n.Dv + 1); ++i) most = std::max(most, std::abs(values[i]));
    for (int64_t j = begin; j < end; ++j) worst[size_t(j)] *= most;
  }
  return worst;
}

// One row from its share of the FFT (num [Dv + 1] at `shift`) and its near keys; `bound` is what its tile moves,
// in units of what the row sees. False when it must be done directly.
template <class T>
bool finish_row(const Head<T>& h, int64_t i, const T* num, T shift, T bound, const std::vector<T>& unit, T* near, T* o,
                T& lse) {
  int64_t low = std::max<int64_t>(0, i - h.options.window + 1), high = std::min(h.last_key(i), i + h.options.window);
  T top = shift;
  for (int64_t j = low; j < high; ++j) top = std::max(top, near[j - low] = h.score(i, j));
  T far = std::exp(shift - top), sum = far * num[h.n.Dv];
  for (int64_t j = low; j < high; ++j) sum += near[j - low] = std::exp(near[j - low] - top);
  if (!(far * bound <= T(kLargestRatio) * sum)) return false;
  for (int64_t d = 0; d < h.n.Dv; ++d) o[d] = far * num[d] / sum * unit[size_t(d)];
  for (int64_t j = low; j < high; ++j)
    for (int64_t d = 0; d < h.n.Dv; ++d) o[d] += near[j - low] / sum * h.value(j)[d];
  lse = top + std::log(sum);
  return std::isfinite(lse);
}

template <class T>
void forward_head(Head<T>& h, T* out, T* lse, uint8_t* direct) {
  h.score_segments();
  Factors<T> f(h);
  const Partition& p = h.partition;
  int64_t channels = h.n.Dv + 1;
  std::vector<T> unit;
  Tensor values = values_and_ones(h, unit), sums = Tensor::zeros({p.T, channels}, core::dtype_of<T>());
  Transformed<T> x(h, values.data<T>(), channels, true, f.upper.has_value());
  Spectra<T> y(p.tiles, 2 * p.L, channels);
  f.lower.apply(x.cells, y);
  add_tiles(h, y, sums.data<T>(), channels);
  if (f.upper) {
    Spectra<T> z(int64_t(p.cells.size()), 2 * p.L, channels);
    f.upper->transposed(x.tiles, z);
    add_cells(h, z, sums.data<T>(), channels);
  }
  std::vector<int64_t> first(static_cast<size_t>(h.n.Dv), 0);
  std::vector<T> larger = excess(h, values.data<T>(), first);
  parallel_for(p.T, 64, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(static_cast<size_t>(p.T));
    for (int64_t i = begin; i < end; ++i) {
      size_t t = size_t(i / p.L);
      T* o = out + i * h.n.H * h.n.Dv;
      bool done = finish_row(h, i, sums.data<T>() + i * channels, f.shift[t], f.bound[t] * larger[size_t(i)], unit,
                             scratch.data(), o, lse[i]);
      for (size_t d = 0; done && d < first.size(); ++d)
        if (i < first[d]) o[d] = 0;
      if (!done) lse[i] = h.direct_row(i, scratch.data(), o);
      direct[i] = !done;
    }
  });
}

template <class T>
void forward(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& options, const Tensor& o,
             const Tensor& lse, const Tensor& direct) {
  ConvBasisShape n = check_conv_basis(q, k, v, options, "conv_basis_attention");
  parallel_for(n.B * n.H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t bh = begin; bh < end; ++bh) {
      Head<T> h(q, k, v, options, n, bh / n.H, bh % n.H);
      T* out = o.data<T>() + (bh / n.H * n.rows * n.H + bh % n.H) * n.Dv;
      if (options.rows == 0) {
        forward_head(h, out, lse.data<T>() + bh * n.T, direct.data<uint8_t>() + bh * n.T);
        continue;
      }
      std::vector<T> p(static_cast<size_t>(n.T));
      for (int64_t i = 0; i < n.rows; ++i) h.direct_row(n.T - n.rows + i, p.data(), out + i * n.H * n.Dv);
    }
  });
}

// The gradients of one head's pairs: rows of dq, dk, dv, and du by segment.
template <class T>
struct Gradients {
  T *dq, *dk, *dv;
  Tensor low, up;  // as Head's
};

// Row i's pairs j in [begin, end), by definition.
template <class T>
void add_pairs(const Head<T>& h, int64_t i, int64_t begin, int64_t end, T lse, T delta, const T* dout,
               Gradients<T>& g) {
  const auto& n = h.n;
  for (int64_t j = begin; j < end; ++j) {
    T p = std::exp(h.logit(i, j) - lse), dp = 0;
    const T* value = h.value(j);
    T* dv = g.dv + j * n.Hkv * n.Dv;
    for (int64_t d = 0; d < n.Dv; ++d) dp += dout[d] * value[d], dv[d] += p * dout[d];
    T ds = p * (dp - delta);
    if (!h.near(i, j)) {
      (j <= i ? g.low : g.up).template data<T>()[h.place(i, j)] += ds;
      continue;
    }
    T *dq = g.dq + i * n.H * n.D, *dk = g.dk + j * n.Hkv * n.D;
    const T *query = h.query(i), *key = h.key(j);
    for (int64_t d = 0; d < n.D; ++d) dq[d] += T(n.scale) * ds * key[d], dk[d] += T(n.scale) * ds * query[d];
  }
}

// into [T] rows += scale du^T at,   and the rows of `from` at the breakpoints += scale du other.
template <class T>
void spread(const Head<T>& h, const Tensor& du, const Tensor& at, T* into, int64_t into_stride, const T* other,
            int64_t other_stride, T* from, int64_t from_stride) {
  int64_t segments = h.partition.segments(), D = h.n.D, n = h.n.T;
  DType dtype = core::dtype_of<T>();
  core::gemm({.trans_a = true,
              .m = n,
              .n = D,
              .k = segments,
              .a = du.raw(),
              .b = at.raw(),
              .c = into,
              .lda = n,
              .ldb = D,
              .ldc = into_stride,
              .alpha = h.n.scale,
              .beta = 1},
             dtype, cpu);
  Tensor rows = Tensor::empty({segments, D}, dtype);
  core::gemm({.m = segments,
              .n = D,
              .k = n,
              .a = du.raw(),
              .b = other,
              .c = rows.raw(),
              .lda = n,
              .ldb = other_stride,
              .ldc = D,
              .alpha = h.n.scale,
              .beta = 0},
             dtype, cpu);
  for (int64_t r = 0; r < segments; ++r)
    for (int64_t d = 0; d < D; ++d) from[h.partition.starts[size_t(r)] * from_stride + d] += rows.data<T>()[r * D + d];
}

template <class T>
void backward_head(Head<T>& h, const T* out, const T* dout, const T* lse, const uint8_t* direct, Gradients<T> g) {
  h.score_segments();
  Factors<T> f(h);
  const Partition& p = h.partition;
  const auto& n = h.n;
  int64_t channels = n.Dv + 1, stride = n.H * n.Dv;
  DType dtype = core::dtype_of<T>();
  g.low = Tensor::zeros({p.segments(), p.T}, dtype);
  if (f.upper) g.up = Tensor::zeros({p.segments(), p.T}, dtype);
  Tensor x = Tensor::zeros({p.T, channels}, dtype), sums = Tensor::zeros({p.T, channels}, dtype);
  for (int64_t i = 0; i < p.T; ++i) {
    if (lse[i] == -std::numeric_limits<T>::infinity()) continue;  // sees no key
    const T* go = dout + i * stride;
    T delta = 0, *row = x.data<T>() + i * channels;
    for (int64_t d = 0; d < n.Dv; ++d) delta += go[d] * out[i * stride + d];
    if (direct[i]) {
      add_pairs(h, i, 0, h.last_key(i), lse[i], delta, go, g);
      continue;
    }
    T inverse = std::exp(f.shift[size_t(i / p.L)] - lse[i]);
    for (int64_t d = 0; d < n.Dv; ++d) row[d] = inverse * go[d];
    row[n.Dv] = -inverse * delta;
    if (h.options.window > 0)
      add_pairs(h, i, std::max<int64_t>(0, i - h.options.window + 1), std::min(h.last_key(i), i + h.options.window),
                lse[i], delta, go, g);
  }
  // X by channel at most 1, and [v 1] by the inverse factors, so that their products are the same.
  std::vector<T> unit = units(x.data<T>(), p.T, channels, channels);
  Tensor values = Tensor::zeros({p.T, channels}, dtype);
  for (int64_t i = 0; i < p.T; ++i)
    for (int64_t d = 0; d < channels; ++d) {
      T u = unit[size_t(d)], &e = x.data<T>()[i * channels + d];
      e = u > 0 ? e / u : T(0);
      if (i < h.keys) values.data<T>()[i * channels + d] = u * (d < n.Dv ? h.value(i)[d] : T(1));
    }
  Transformed<T> xs(h, x.data<T>(), channels, f.upper.has_value(), true);
  Transformed<T> vs(h, values.data<T>(), channels, true, f.upper.has_value());
  Spectra<T> z(int64_t(p.cells.size()), 2 * p.L, channels);
  f.lower.transposed(xs.tiles, z);
  add_cells(h, z, sums.data<T>(), channels);
  f.lower.correlate(vs.cells, xs.tiles, g.low.template data<T>());
  if (f.upper) {
    Spectra<T> y(p.tiles, 2 * p.L, channels);
    f.upper->apply(xs.cells, y);
    add_tiles(h, y, sums.data<T>(), channels);
    f.upper->correlate(xs.cells, vs.tiles, g.up.template data<T>());
  }
  for (int64_t j = 0; j < h.keys; ++j)
    for (int64_t d = 0; d < n.Dv; ++d) g.dv[j * n.Hkv * n.Dv + d] += sums.data<T>()[j * channels + d] * unit[size_t(d)];
  spread(h, g.low, h.keys_at, g.dq, n.H * n.D, h.q, n.H * n.D, g.dk, n.Hkv * n.D);
  if (f.upper) spread(h, g.up, h.queries_at, g.dk, n.Hkv * n.D, h.k, n.Hkv * n.D, g.dq, n.H * n.D);
}

template <class T>
void backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
              const Tensor& direct, const Tensor& dout, const ConvBasisOptions& options, const Tensor& dq,
              const Tensor& dk, const Tensor& dv) {
  ConvBasisShape n = check_conv_basis(q, k, v, options, "conv_basis_attention");
  for (const Tensor& t : {dq, dk, dv}) core::fill(t, 0);
  int64_t group = n.H / n.Hkv;
  parallel_for(n.B * n.Hkv, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit)
      for (int64_t h = unit % n.Hkv * group; h < (unit % n.Hkv + 1) * group; ++h) {
        int64_t b = unit / n.Hkv, bh = b * n.H + h;
        Head<T> head(q, k, v, options, n, b, h);
        Gradients<T> g{dq.data<T>() + (head.q - q.data<T>()),
                       dk.data<T>() + (head.k - k.data<T>()),
                       dv.data<T>() + (head.v - v.data<T>()),
                       {},
                       {}};
        int64_t at = (b * n.T * n.H + h) * n.Dv;
        backward_head(head, o.data<T>() + at, dout.data<T>() + at, lse.data<T>() + bh * n.T,
                      direct.data<uint8_t>() + bh * n.T, g);
      }
  });
}

REGISTER_KERNEL(conv_basis_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(conv_basis_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(conv_basis_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(conv_basis_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
