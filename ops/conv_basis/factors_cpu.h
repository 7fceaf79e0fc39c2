// What forward and backward of one head share on the CPU: its Toeplitz factors, and transforms of its channels.
#pragma once

#include <cmath>
#include <optional>

#include "core/parallel.h"
#include "ops/conv_basis/head_cpu.h"
#include "ops/conv_basis/piecewise_toeplitz.h"

namespace basis::ops {

using core::parallel_for;

// A row goes through the FFT when what its tile moves, the l1 norm of the scaled windows, is at most this many times
// its own mass. The FFT's error is below 2 eps times the former: 1.3e-5 of the largest value in f32.
inline constexpr double kLargestRatio = 100;

// The Toeplitz factors of one head (strictly upper part for full attention) and the shift of each tile.
template <class T>
struct Factors {
  explicit Factors(const Head<T>& h)
      : lower(h.partition, h.low.template data<T>(), h.options.window),
        shift(size_t(h.partition.tiles), -std::numeric_limits<T>::infinity()),
        bound(size_t(h.partition.tiles), T(0)) {
    lower.raise_to_largest(true, shift);
    if (h.up) {
      upper.emplace(h.partition, h.up.template data<T>(), std::max<int64_t>(1, h.options.window));
      upper->raise_to_largest(false, shift);
    }
    lower.set_shift(true, shift, bound);
    if (upper) upper->set_shift(false, shift, bound);
  }
  PiecewiseToeplitz<T> lower;
  std::optional<PiecewiseToeplitz<T>> upper;
  std::vector<T> shift, bound;  // by tile
};

// Spectra of [T][channels] by cell and by tile; one and the same where cells are tiles.
template <class T>
struct Transformed {
  Transformed(const Head<T>& h, const T* x, int64_t channels, bool by_cell, bool by_tile) {
    const Partition& p = h.partition;
    if (by_cell || p.aligned()) {
      cells = Spectra<T>(int64_t(p.cells.size()), 2 * p.L, channels);
      parallel_for(cells.blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) {
          const auto& c = p.cells[size_t(m)];
          to_spectrum(x, channels, c.tile * p.L, c.begin, c.end, cells, m);
        }
      });
    }
    if (p.aligned()) {
      tiles = cells;
    } else if (by_tile) {
      tiles = Spectra<T>(p.tiles, 2 * p.L, channels);
      parallel_for(p.tiles, 1, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
          to_spectrum(x, channels, t * p.L, t * p.L, std::min(p.T, t * p.L + p.L), tiles, t);
      });
    }
  }
  Spectra<T> cells, tiles;
};

template <class T>
void add_tiles(const Head<T>& h, const Spectra<T>& s, T* y, int64_t channels) {
  const Partition& p = h.partition;
  parallel_for(p.tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      add_from_spectrum(s, t, t * p.L, t * p.L, std::min(p.T, t * p.L + p.L), y, channels);
  });
}
template <class T>
void add_cells(const Head<T>& h, const Spectra<T>& s, T* y, int64_t channels) {
  const Partition& p = h.partition;
  parallel_for(s.blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const auto& c = p.cells[size_t(m)];
      add_from_spectrum(s, m, c.tile * p.L, c.begin, c.end, y, channels);
    }
  });
}

// The power of two that brings x [rows][channels], by channel, to at most 1: two channels share a transform, and what
// one rounds off must not exceed the other. 0 for a channel of zeros. With `tile` > 0 that of the first tile in which a
// channel is not zero, so that what comes later changes no bit of what comes earlier.
template <class T>
std::vector<T> units(const T* x, int64_t rows, int64_t channels, int64_t stride, int64_t tile = 0) {
  std::vector<T> u(static_cast<size_t>(channels), T(0)), now(u);
  for (int64_t begin = 0; begin < rows; begin += tile ? tile : rows) {
    std::fill(now.begin(), now.end(), T(0));
    for (int64_t i = begin; i < (tile ? std::min(rows, begin + tile) : rows); ++i)
      for (int64_t c = 0; c < channels; ++c) now[size_t(c)] = std::max(now[size_t(c)], std::abs(x[i * stride + c]));
    bool missing = false;
    for (size_t c = 0; c < u.size(); ++c) missing |= (u[c] = u[c] > 0 ? u[c] : now[c]) == 0;
    if (!missing) break;
  }
  for (T& largest : u) {
    if (largest == 0) continue;
    if (!std::isfinite(largest)) largest = 1;
    int exponent = std::ilogb(largest), most = std::numeric_limits<T>::max_exponent - 2;
    largest = std::ldexp(T(1), std::clamp(exponent, -most, most));
  }
  return u;
}

// [v / unit, 1] [T][Dv + 1], zero for padded keys.
template <class T>
Tensor values_and_ones(const Head<T>& h, std::vector<T>& unit) {
  Tensor x = Tensor::zeros({h.n.T, h.n.Dv + 1}, core::dtype_of<T>());
  unit = units(h.v, h.keys, h.n.Dv, h.n.Hkv * h.n.Dv, h.options.causal ? h.partition.L : 0);
  for (int64_t j = 0; j < h.keys; ++j) {
    T* row = x.data<T>() + j * (h.n.Dv + 1);
    for (int64_t d = 0; d < h.n.Dv; ++d) row[d] = unit[size_t(d)] > 0 ? h.value(j)[d] / unit[size_t(d)] : T(0);
    row[h.n.Dv] = 1;
  }
  return x;
}

}  // namespace basis::ops
