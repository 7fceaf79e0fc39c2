// Products with one head's piecewise Toeplitz matrix on the CPU,
//
//   A[i, j] = a_r[i - j],   r = segment(j),   0 <= i - j,     a_r[l] = exp(g_r[s_r + l])
//
// through spectra of tiles. A source cell c and a target tile t meet in one window of a_r, the lags (t - c) L - (L - 1)
// .. (t - c) L + (L - 1); a circular convolution of 2L points with a cell padded by zeros is exact on the tile's L
// positions, and for each frequency the tiles are mixed by a small matrix. Two real channels travel as one complex
// number, which products with real kernels keep apart.
//
// Each window is scaled by its own largest element, exp(mu), and each row by exp(-shift) of its tile, so that every
// factor is at most 1.
#pragma once

#include "core/fft/fft.h"
#include "ops/conv_basis/partition.h"

namespace basis::ops {

// Spectra of blocks of positions: [blocks][2L][2][lanes], frequencies in LaneFft's order.
template <class T>
struct Spectra {
  int64_t blocks = 0, frequencies = 0, lanes = 0;
  core::Tensor data;

  Spectra() = default;
  Spectra(int64_t blocks, int64_t frequencies, int64_t channels);
  int64_t row() const { return 2 * lanes; }
  T* at(int64_t block, int64_t frequency) const { return data.data<T>() + (block * frequencies + frequency) * row(); }
};

// x [T][channels] -> spectrum of positions [begin, end), which lie in the tile that starts at `origin`.
template <class T>
void to_spectrum(const T* x, int64_t channels, int64_t origin, int64_t begin, int64_t end, const Spectra<T>& out,
                 int64_t block);
// The inverse: positions [begin, end) are added to y [T][channels].
template <class T>
void add_from_spectrum(const Spectra<T>& in, int64_t block, int64_t origin, int64_t begin, int64_t end, T* y,
                       int64_t channels);

template <class T>
class PiecewiseToeplitz {
 public:
  // g [segments][T]: g_r[p] for p >= s_r. Lags below `first_lag` are zero.
  PiecewiseToeplitz(const Partition& partition, const T* g, int64_t first_lag);

  // max[t] = max(max[t], mu of the windows that reach tile t). Target side: t is the tile of i, else that of j.
  void raise_to_largest(bool target_side, std::vector<T>& max) const;
  // Fixes the shift of each tile, and adds to bound[t] the sum of |scaled window| over what reaches tile t.
  void set_shift(bool target_side, const std::vector<T>& shift, std::vector<T>& bound);

  void apply(const Spectra<T>& cells, const Spectra<T>& tiles) const;       // tiles = A cells
  void transposed(const Spectra<T>& tiles, const Spectra<T>& cells) const;  // cells = A^T tiles
  // dg_r[s_r + l] += a_r[l] sum over j of segment r of <x[j], y[j + l]>, x in cells, y in tiles.
  void correlate(const Spectra<T>& cells, const Spectra<T>& tiles, T* dg) const;

 private:
  int64_t windows(int64_t r) const { return p_.tiles - p_.first_tile(r); }
  int64_t place(int64_t r, int64_t f) const { return offset_[size_t(r)] * 2 * half_ + f * 2 * padded_[size_t(r)]; }
  int64_t mu_at(int64_t r, int64_t d) const { return r * p_.tiles + d; }
  void read_windows(int64_t r);

  const Partition& p_;
  const T* g_;
  int64_t first_lag_, N_, half_;  // half_ = L + 1 stored frequencies
  std::vector<int64_t> offset_, padded_;
  core::Tensor spectra_;        // per segment [half][2][padded windows]
  std::vector<T> mu_, length_;  // [segments][tiles]: largest logit and sum of exp(logit - mu) of each window
  std::vector<T> scale_;        // [tiles][cells]: exp(mu - shift), 0 where nothing is to be done
};

}  // namespace basis::ops
