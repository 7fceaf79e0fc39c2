#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "ops/common/math.h"
#include "ops/conv_basis/piecewise_toeplitz.h"

namespace basis::ops {

using core::LaneFft;
using core::parallel_for;

namespace {

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The sums of `count` complex rows with coefficients (wr, wi), G vector registers of lanes at a time.
template <int G, class T>
void mix_lanes(const T* const* rows, const T* wr, const T* wi, int64_t count, int64_t lanes, T* out) {
  constexpr int n = G * LaneFft<T>::lanes;
  T re[n] = {}, im[n] = {};
  for (int64_t m = 0; m < count; ++m) {
    const T *x = rows[m], *y = rows[m] + lanes;
    T a = wr[m], b = wi[m];
    for (int l = 0; l < n; ++l) {
      re[l] += a * x[l] - b * y[l];
      im[l] += a * y[l] + b * x[l];
    }
  }
  for (int l = 0; l < n; ++l) out[l] = re[l], out[lanes + l] = im[l];
}

template <class T>
void mix(std::vector<const T*>& rows, const std::vector<T>& wr, const std::vector<T>& wi, int64_t count, int64_t lanes,
         T* out) {
  constexpr int W = LaneFft<T>::lanes;
  for (int64_t l = 0; l < lanes;) {
    int64_t groups = std::min<int64_t>(3, (lanes - l) / W);
    auto f = groups == 3 ? mix_lanes<3, T> : groups == 2 ? mix_lanes<2, T> : mix_lanes<1, T>;
    f(rows.data(), wr.data(), wi.data(), count, lanes, out + l);
    for (int64_t m = 0; m < count; ++m) rows[size_t(m)] += groups * W;
    l += groups * W;
  }
}

// <x*, y> over complex lanes.
template <class T>
void dot(const T* x, const T* y, int64_t lanes, T& re, T& im) {
  constexpr int W = LaneFft<T>::lanes;
  T r[W] = {}, i[W] = {};
  for (int64_t l = 0; l < lanes; l += W)
    for (int j = 0; j < W; ++j) {
      r[j] += x[l + j] * y[l + j] + x[lanes + l + j] * y[lanes + l + j];
      i[j] += x[l + j] * y[lanes + l + j] - x[lanes + l + j] * y[l + j];
    }
  re = im = 0;
  for (int j = 0; j < W; ++j) re += r[j], im += i[j];
}

}  // namespace

template <class T>
Spectra<T>::Spectra(int64_t blocks_, int64_t frequencies_, int64_t channels)
    : blocks(blocks_), frequencies(frequencies_), lanes(round_up((channels + 1) / 2, LaneFft<T>::lanes)) {
  data = core::Tensor::empty({blocks * frequencies * row()}, core::dtype_of<T>());
}

// Channel c < lanes is the real part of lane c, channel lanes + c its imaginary part.
template <class T>
void to_spectrum(const T* x, int64_t channels, int64_t origin, int64_t begin, int64_t end, const Spectra<T>& out,
                 int64_t block) {
  constexpr int W = LaneFft<T>::lanes;
  const auto& plan = LaneFft<T>::of(out.frequencies);
  std::vector<T> z(size_t(out.frequencies * 2 * W));
  for (int64_t first = 0; first < out.lanes; first += W) {
    std::fill(z.begin(), z.end(), T(0));
    for (int part = 0; part < 2; ++part) {
      int64_t channel = part * out.lanes + first, width = std::clamp<int64_t>(channels - channel, 0, W);
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(x + i * channels + channel, width, &z[size_t((i - origin) * 2 * W + part * W)]);
    }
    plan.forward(z.data());
    for (int64_t f = 0; f < out.frequencies; ++f) {
      std::copy_n(&z[size_t(f * 2 * W)], W, out.at(block, f) + first);
      std::copy_n(&z[size_t(f * 2 * W + W)], W, out.at(block, f) + out.lanes + first);
    }
  }
}

template <class T>
void add_from_spectrum(const Spectra<T>& in, int64_t block, int64_t origin, int64_t begin, int64_t end, T* y,
                       int64_t channels) {
  constexpr int W = LaneFft<T>::lanes;
  const auto& plan = LaneFft<T>::of(in.frequencies);
  std::vector<T> z(size_t(in.frequencies * 2 * W));
  T scale = T(1) / T(in.frequencies);
  for (int64_t first = 0; first < in.lanes; first += W) {
    for (int64_t f = 0; f < in.frequencies; ++f) {
      std::copy_n(in.at(block, f) + first, W, &z[size_t(f * 2 * W)]);
      std::copy_n(in.at(block, f) + in.lanes + first, W, &z[size_t(f * 2 * W + W)]);
    }
    plan.inverse(z.data());
    for (int part = 0; part < 2; ++part) {
      int64_t channel = part * in.lanes + first, width = std::clamp<int64_t>(channels - channel, 0, W);
      for (int64_t i = begin; i < end; ++i)
        for (int64_t l = 0; l < width; ++l)
          y[i * channels + channel + l] += scale * z[size_t((i - origin) * 2 * W + part * W + l)];
    }
  }
}

template <class T>
PiecewiseToeplitz<T>::PiecewiseToeplitz(const Partition& p, const T* g, int64_t first_lag)
    : p_(p), g_(g), first_lag_(first_lag), N_(2 * p.L), half_(p.L + 1), offset_{0} {
  for (int64_t r = 0; r < p.segments(); ++r) {
    padded_.push_back(round_up(windows(r), LaneFft<T>::lanes));
    offset_.push_back(offset_.back() + padded_.back());
  }
  spectra_ = core::Tensor::empty({offset_.back() * 2 * half_}, core::dtype_of<T>());
  mu_.assign(size_t(p.segments() * p.tiles), -std::numeric_limits<T>::infinity());
  length_.assign(mu_.size(), T(0));
  parallel_for(p.segments(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) read_windows(r);
  });
}

// Windows 2W at a time, neighbours as the real and the imaginary part of a lane: one rounds off what the other holds,
// and so the far future never reaches the past, not even by rounding.
template <class T>
void PiecewiseToeplitz<T>::read_windows(int64_t r) {
  constexpr int64_t W = LaneFft<T>::lanes;
  const auto& plan = LaneFft<T>::of(N_);
  const T* u = g_ + r * p_.T + p_.starts[size_t(r)];  // by lag
  int64_t lags = p_.T - p_.starts[size_t(r)];
  std::vector<T> z(size_t(N_ * 2 * W));
  T* out = spectra_.data<T>();
  for (int64_t first = 0; first < windows(r); first += 2 * W) {
    std::fill(z.begin(), z.end(), T(0));
    for (int64_t d = first; d < std::min(windows(r), first + 2 * W); ++d) {
      int64_t low = std::max(first_lag_, (d - 1) * p_.L + 1), high = std::min(lags, (d + 1) * p_.L);
      if (low >= high) continue;
      T mu = *std::max_element(u + low, u + high), sum = 0;
      T* lane = &z[size_t((d - first) / 2 + (d - first) % 2 * W)];
      for (int64_t l = low; l < high; ++l) {
        T a = mu == -std::numeric_limits<T>::infinity() ? T(0) : fast_exp(u[l] - mu);
        int64_t x = l - d * p_.L;
        lane[(x < 0 ? x + N_ : x) * 2 * W] = a;
        sum += a;
      }
      mu_[size_t(mu_at(r, d))] = mu, length_[size_t(mu_at(r, d))] = sum;
    }
    plan.forward(z.data());
    for (int64_t f = 0; f < half_; ++f) {
      const T *p = &z[size_t(plan.order()[size_t(f)] * 2 * W)],
              *m = &z[size_t(plan.order()[size_t((N_ - f) % N_)] * 2 * W)];
      T *re = out + place(r, f) + first, *im = re + padded_[size_t(r)];
      int64_t used = first + W < padded_[size_t(r)] ? W : W / 2;
      for (int64_t l = 0; l < used; ++l) {
        re[2 * l] = (p[l] + m[l]) / 2, im[2 * l] = (p[W + l] - m[W + l]) / 2;
        re[2 * l + 1] = (p[W + l] + m[W + l]) / 2, im[2 * l + 1] = (m[l] - p[l]) / 2;
      }
    }
  }
}

template <class T>
void PiecewiseToeplitz<T>::raise_to_largest(bool target_side, std::vector<T>& max) const {
  for (const auto& c : p_.cells)
    for (int64_t t = c.tile; t < p_.tiles; ++t) {
      T& value = max[size_t(target_side ? t : c.tile)];
      value = std::max(value, mu_[size_t(mu_at(c.segment, t - c.tile))]);
    }
}

template <class T>
void PiecewiseToeplitz<T>::set_shift(bool target_side, const std::vector<T>& shift, std::vector<T>& bound) {
  int64_t cells = int64_t(p_.cells.size());
  scale_.assign(size_t(p_.tiles * cells), T(0));
  for (int64_t m = 0; m < cells; ++m)
    for (int64_t c = p_.cells[size_t(m)].tile, t = c; t < p_.tiles; ++t) {
      int64_t at = target_side ? t : c;
      T mu = mu_[size_t(mu_at(p_.cells[size_t(m)].segment, t - c))];
      if (mu == -std::numeric_limits<T>::infinity()) continue;
      T s = std::exp(mu - shift[size_t(at)]);
      scale_[size_t(t * cells + m)] = s;
      bound[size_t(at)] += s * length_[size_t(mu_at(p_.cells[size_t(m)].segment, t - c))];
    }
}

template <class T>
void PiecewiseToeplitz<T>::apply(const Spectra<T>& in, const Spectra<T>& out) const {
  int64_t cells = int64_t(p_.cells.size());
  const auto& order = LaneFft<T>::of(N_).order();
  const T* a = spectra_.data<T>();
  parallel_for(N_, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> wr(static_cast<size_t>(cells)), wi(wr);
    std::vector<const T*> rows(wr.size());
    for (int64_t at = begin; at < end; ++at) {
      int64_t f = order[size_t(at)], stored = f < half_ ? f : N_ - f;
      T sign = f < half_ ? T(1) : T(-1);
      for (int64_t t = 0; t < p_.tiles; ++t) {
        int64_t count = p_.cells_to[size_t(t + 1)];
        for (int64_t m = 0; m < count; ++m) {
          const auto& c = p_.cells[size_t(m)];
          const T* w = a + place(c.segment, stored) + t - c.tile;
          T s = scale_[size_t(t * cells + m)];
          wr[size_t(m)] = s * w[0], wi[size_t(m)] = sign * s * w[padded_[size_t(c.segment)]];
          rows[size_t(m)] = in.at(m, at);
        }
        mix(rows, wr, wi, count, in.lanes, out.at(t, at));
      }
    }
  });
}

template <class T>
void PiecewiseToeplitz<T>::transposed(const Spectra<T>& in, const Spectra<T>& out) const {
  int64_t cells = int64_t(p_.cells.size());
  const auto& order = LaneFft<T>::of(N_).order();
  const T* a = spectra_.data<T>();
  parallel_for(N_, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> wr(size_t(p_.tiles)), wi(wr);
    std::vector<const T*> rows(wr.size());
    for (int64_t at = begin; at < end; ++at) {
      int64_t f = order[size_t(at)], stored = f < half_ ? f : N_ - f;
      T sign = f < half_ ? T(-1) : T(1);
      for (int64_t m = 0; m < cells; ++m) {
        const auto& c = p_.cells[size_t(m)];
        const T* w = a + place(c.segment, stored);
        int64_t count = p_.tiles - c.tile;
        for (int64_t d = 0; d < count; ++d) {
          T s = scale_[size_t((c.tile + d) * cells + m)];
          wr[size_t(d)] = s * w[d], wi[size_t(d)] = sign * s * w[padded_[size_t(c.segment)] + d];
          rows[size_t(d)] = in.at(c.tile + d, at);
        }
        mix(rows, wr, wi, count, in.lanes, out.at(m, at));
      }
    }
  });
}

template <class T>
void PiecewiseToeplitz<T>::correlate(const Spectra<T>& x, const Spectra<T>& y, T* dg) const {
  constexpr int64_t W = LaneFft<T>::lanes;
  int64_t cells = int64_t(p_.cells.size()), total = offset_.back();
  core::Tensor sums = core::Tensor::zeros({N_ * 2 * total}, core::dtype_of<T>());  // per segment [N][2][padded]
  T* e = sums.data<T>();
  auto row = [&](int64_t r, int64_t at) { return e + offset_[size_t(r)] * 2 * N_ + at * 2 * padded_[size_t(r)]; };
  parallel_for(N_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at)
      for (int64_t m = 0; m < cells; ++m) {
        const auto& c = p_.cells[size_t(m)];
        T *re = row(c.segment, at), *im = re + padded_[size_t(c.segment)];
        for (int64_t t = c.tile; t < p_.tiles; ++t) {
          T s = scale_[size_t(t * cells + m)], a, b;
          dot(x.at(m, at), y.at(t, at), x.lanes, a, b);
          re[t - c.tile] += s * a, im[t - c.tile] += s * b;
        }
      }
  });
  const auto& plan = LaneFft<T>::of(N_);
  parallel_for(p_.segments(), 1, [&](int64_t begin, int64_t end) {
    std::vector<T> z(size_t(N_ * 2 * W));
    for (int64_t r = begin; r < end; ++r)
      for (int64_t first = 0; first < windows(r); first += W) {
        for (int64_t at = 0; at < N_; ++at)
          for (int64_t l = 0; l < W; ++l)
            z[size_t(at * 2 * W + l)] = row(r, at)[first + l],
                                  z[size_t(at * 2 * W + W + l)] = row(r, at)[padded_[size_t(r)] + first + l];
        plan.inverse(z.data());  // the real part is the correlation summed over both channels of a lane
        const T* u = g_ + r * p_.T + p_.starts[size_t(r)];
        T* du = dg + r * p_.T + p_.starts[size_t(r)];
        for (int64_t d = first; d < std::min(windows(r), first + W); ++d) {
          T mu = mu_[size_t(mu_at(r, d))];
          if (mu == -std::numeric_limits<T>::infinity()) continue;
          int64_t low = std::max(first_lag_, (d - 1) * p_.L + 1);
          int64_t high = std::min(p_.T - p_.starts[size_t(r)], (d + 1) * p_.L);
          for (int64_t l = low; l < high; ++l) {
            int64_t at = l - d * p_.L;
            du[l] += fast_exp(u[l] - mu) * z[size_t((at < 0 ? at + N_ : at) * 2 * W + d - first)] / T(N_);
          }
        }
      }
  });
}

template struct Spectra<float>;
template class PiecewiseToeplitz<float>;
template void to_spectrum(const float*, int64_t, int64_t, int64_t, int64_t, const Spectra<float>&, int64_t);
template void add_from_spectrum(const Spectra<float>&, int64_t, int64_t, int64_t, int64_t, float*, int64_t);
template struct Spectra<double>;
template class PiecewiseToeplitz<double>;
template void to_spectrum(const double*, int64_t, int64_t, int64_t, int64_t, const Spectra<double>&, int64_t);
template void add_from_spectrum(const Spectra<double>&, int64_t, int64_t, int64_t, int64_t, double*, int64_t);

}  // namespace basis::ops
