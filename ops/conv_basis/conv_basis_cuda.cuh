// Conv-basis attention on CUDA: what its kernels share. Heads are taken in chunks of `units`, so that the scratch
// memory stays bounded; within one, u counts heads (b H + h = first + u). All arithmetic is f32, whatever the tensors'
// dtype.
//
// Spectra lie frequency by frequency, [u][2L places][blocks][columns]: two channels are one complex column, and places
// are bit-reversed frequencies (core/cuda/tile_fft.cuh). Normalisers need no transform: with ones for values, a
// window's part in a row is a sum of neighbouring lags, the difference of two cumulative sums.
#pragma once

#include "core/cuda/launch.cuh"
#include "core/cuda/tile_fft.cuh"
#include "ops/conv_basis/conv_basis.h"

namespace basis::ops::conv_cuda {

using namespace core;

constexpr int kColumns = 4;  // complex columns that one block transforms

struct Cell {
  int tile, segment, begin, end;
};

struct Geometry {
  int T, H, Hkv, D, Dv, first, units;
  int L, log, tiles, segments, cells;  // log of 2L; cells: at most this many
  int columns;                         // complex columns, a multiple of kColumns
  int window;
  bool causal, aligned;  // aligned: every cell is a tile
  bool exact;            // products to f32's rounding; else tf32's
  float scale, largest_ratio;
  const int* starts;       // [u][segments], T where unused
  const int* cells_to;     // [u][tiles + 1] cells before a tile
  const Cell* cell;        // [u][cells]
  const int* key_lengths;  // [B] or null
  const float2* twiddles;  // [2L]

  __device__ int places() const { return 1 << log; }
  __device__ int batch(int u) const { return (first + u) / H; }
  __device__ int head(int u) const { return (first + u) % H; }
  __device__ int64_t query(int u, int i) const { return ((int64_t(batch(u)) * T + i) * H + head(u)) * D; }
  __device__ int64_t key(int u, int j) const { return ((int64_t(batch(u)) * T + j) * Hkv + head(u) * Hkv / H) * D; }
  __device__ int64_t value(int u, int j) const { return ((int64_t(batch(u)) * T + j) * Hkv + head(u) * Hkv / H) * Dv; }
  __device__ int64_t output(int u, int i) const { return ((int64_t(batch(u)) * T + i) * H + head(u)) * Dv; }
  __device__ int keys(int u) const {
    int n = key_lengths ? key_lengths[batch(u)] : T;
    return n < 0 ? 0 : n < T ? n : T;
  }
  __device__ int last_key(int u, int i) const {
    int n = keys(u);
    return causal && i + 1 < n ? i + 1 : n;
  }
  __device__ bool near(int i, int j) const { return abs(i - j) < window; }
  __device__ int segment_of(int u, int j) const {  // the last r with starts[r] <= j
    const int* s = starts + int64_t(u) * segments;
    int low = 0, high = segments;
    while (high - low > 1) {
      int middle = (low + high) / 2;
      (s[middle] <= j ? low : high) = middle;
    }
    return low;
  }
  __device__ int start(int u, int r) const { return starts[int64_t(u) * segments + r]; }
  // The cell that ends where `tile` > 0 begins.
  __device__ const Cell& edge(int u, int tile) const {
    return cell[int64_t(u) * cells + cells_to[int64_t(u) * (tiles + 1) + tile] - 1];
  }
  __device__ int64_t score_row(int u, int r) const { return (int64_t(u) * segments + r) * T; }
  __device__ int64_t window_at(int u, int r, int d) const { return (int64_t(u) * segments + r) * tiles + d; }
  __device__ int64_t spectrum(int u, int place, int blocks, int block) const {
    return ((int64_t(u) * places() + place) * blocks + block) * columns;
  }
};

// The logit scale <x, y> of finite vectors of n channels where f32 does not hold it: the nearest number that it holds.
template <class T>
__device__ __noinline__ float bounded(const T* x, const T* y, int n, float scale) {
  double sum = 0, most = 0x1.fffffep127;
  for (int d = 0; d < n; ++d) sum += double(widen(x[d])) * double(widen(y[d]));
  return float(fmin(fmax(double(scale) * sum, -most), most));
}
template <class T>
__device__ __forceinline__ float logit_of(float sum, const T* x, const T* y, int n, float scale) {
  float logit = scale * sum;
  return isfinite(logit) ? logit : bounded(x, y, n, scale);
}

template <class T>
__device__ __forceinline__ float near_logit(const T* x, const T* y, int n, float scale) {
  float sum = 0;
  for (int d = 0; d < n; ++d) sum += widen(x[d]) * widen(y[d]);
  return logit_of(sum, x, y, n, scale);
}

// One triangle's Toeplitz factors. Lower: row u_r is scale q . k[s_r]; upper: scale q[s_r] . k.
struct Triangle {
  bool upper;
  int first_lag;
  float* scores;       // [u][segments][T]
  float* mu;           // [u][segments][tiles] largest logit of a window
  float* length;       // [u][segments][tiles] sum of exp(logit - mu)
  float* cumulative;   // [u][segments][tiles][2L] sums of exp(logit - mu) up to each lag of a window
  float* scale;        // [u][cells][tiles] exp(mu - shift) of a cell's window into a tile, 0 where there is none
  float2* spectrum;    // [u][L + 1][segments][tiles]
  float2* sums;        // backward: the correlations, as `spectrum`
  float *du, *du_low;  // backward: [u][segments][T] from a window's lags >= and < its middle

  // Sum of exp(logit - mu) over lags [low, high] of window d.
  __device__ __forceinline__ float sum(const Geometry& g, int u, int r, int d, int low, int high) const {
    const float* c = cumulative + g.window_at(u, r, d) * g.places();
    int base = (d - 1) * g.L + 1;
    low = max(low - base, 0), high = min(high - base, g.places() - 2);
    return high < low ? 0.0f : c[high] - (low > 0 ? c[low - 1] : 0.0f);
  }
};

// Values of 16 bits enter their spectra in units of 2^40, so that sums of the largest ones stay finite.
constexpr float kUnit = 0x1p40f;
// Probabilities that are summed one by one are in units of 2^21 where values may be as large.
constexpr float kSmall = 0x1p-21f;

// Threads of a block that transforms 2L points: several blocks share a multiprocessor while their memory allows it.
inline int fft_threads(const Geometry& g) {
  return std::clamp((1 << g.log) / 16 * kColumns, 32, g.log <= 11 ? 256 : 512);
}

// A row goes through the FFT when what its tile moves is at most this many times its own mass (factors_cpu.h). With
// products in tf32 channels of a row err by 2^-12 of their tile's root mean square.
inline float largest_ratio(bool exact) { return exact ? 100.0f : 32.0f; }

// conv_basis_cuda_windows.cu
void build_partition(const Geometry& g, const int* given, int given_count, int spacing, int* starts, int* cells_to,
                     Cell* cells, Device device);
template <class T>
void score_segments(const Geometry& g, const Triangle& t, const T* q, const T* k, Device device);
// mu, length and cumulative sums of every window; then the spectra.
void sum_windows(const Geometry& g, const Triangle& t, Device device);
void transform_windows(const Geometry& g, const Triangle& t, Device device);
// The shift belongs to tiles of rows: targets of the lower triangle, sources of the upper one. Also fills `scale`.
void choose_shift(const Geometry& g, const Triangle& lower, const Triangle* upper, float* shift, float* bound,
                  Device device);
// Adds to du what comes through the values, and writes du_low.
void gradient_of_windows(const Geometry& g, const Triangle& t, Device device);

// conv_basis_cuda_mix.cu, conv_basis_cuda_correlate.cu: products by frequency.
void mix(const Geometry& g, const Triangle& t, const float2* cells, float2* tiles, Device device);
void mix_transposed(const Geometry& g, const Triangle& t, const float2* tiles, float2* cells, Device device);
void correlate(const Geometry& g, const Triangle& t, const float2* cells, const float2* tiles, Device device);

// What of a row does not go through the FFT, as bits of `direct`: all of it, or its pairs with the cell before its tile
// (the tile's edge; then all rows of the tile have this bit).
constexpr uint8_t kWhole = 1, kEdge = 2;

// conv_basis_cuda_units.cu
// Powers of two by which channels are divided before their transform, only for f32; null pointers stand for kUnit, 1
// for gradients.
struct Units {                     // [u][2 columns]
  float *unit, *inverse, *shared;  // shared: unit / kUnit
  float* small;                    // [u] unit of probabilities: kSmall, or 1 where values are below 2^107
};
// Of values; excess [u][T] or null: how much larger than what a row sees, in any channel, is what its tile transforms.
void value_units(const Geometry& g, const float* v, const Units& out, float* excess, Device device);
// Of factor do.
void gradient_units(const Geometry& g, const float* dout, const float* factor, const Units& out, Device device);

// conv_basis_cuda_mass.cu
// Where rows are not final after the FFT, only `mass`: of each row at its tile's shift. Where they are (causal
// attention without a window), chooses what goes through the FFT and sets `scale` to 0 for edges that do not.
struct RowResults {  // [u][T]
  float* mass;
  float* edge;  // what of it comes from the cell before the tile, and is not in `mass`; the rest only where final
  float* lse;   // of what goes through the FFT
  uint8_t* direct;
  float* factor;  // 1 / (2L mass), 0 for rows of which nothing does
  const float* excess = nullptr;
};
void row_mass(const Geometry& g, const Triangle& lower, const Triangle* upper, const float* shift, const float* bound,
              const RowResults& out, Device device);
// Repeats that choice.
void drop_edges(const Geometry& g, const Triangle& lower, const uint8_t* direct, Device device);
// du = what comes through the normalisers of what goes through the FFT; factor and delta as in RowGradients.
void gradient_of_mass(const Geometry& g, const Triangle& t, const float* shift, const float* factor, const float* delta,
                      const uint8_t* direct, Device device);

// Groups of 16 neighbouring rows with some that are done directly.
constexpr int kGroup = 16;
struct Groups {
  int* listed;  // [u][T / 16 rounded up] ascending
  int* count;   // [u] how many
  int* stop;    // [u] behind the last row with any pair outside of the FFT
  __device__ const int* of(const Geometry& g, int u) const {
    return listed + int64_t(u) * ((g.T + kGroup - 1) / kGroup);
  }
};

template <class T>
struct RowTensors {  // [B,T,heads,channels]
  const T *q, *k, *v, *o, *dout;
  const float* lse;       // [u][T]
  const uint8_t* direct;  // [u][T]
};
struct RowGradients {
  float *dq, *dk, *dv;  // [u][T][D], [u][T][D], [u][T][2 columns]
  float* delta;         // [u][T] <do, o>
  float* factor;        // [u][T] 1 / Dn at the tile's shift, 0 for rows done directly
  Groups groups;        // with rows done directly
};

// conv_basis_cuda_spectra.cu
// times [u][2 columns], by channel; null: 1 / kUnit for values, 1 for gradients.
template <class T>
void values_to_spectra(const Geometry& g, const T* v, const float* times, bool by_cell, float2* spectra, Device device);
// Rows of the gradient: factor do.
template <class T>
void gradient_to_spectra(const Geometry& g, const T* dout, const float* factor, const float* times, bool by_cell,
                         float2* spectra, Device device);
// f32 rows [u][T][2 columns]. times: null: 1.
void spectra_to_rows(const Geometry& g, const float2* spectra, const float* times, bool by_cell, bool add, float* rows,
                     Device device);
// o of the rows that go through the FFT. times: null: kUnit.
template <class T>
void spectra_to_output(const Geometry& g, const float2* spectra, const float* factor, const float* times, T* o,
                       Device device);
// dv where each head has its own values, with d.dv added up to groups.stop. times: null: 1.
template <class T>
void spectra_to_value_gradient(const Geometry& g, const float2* spectra, const float* times, const RowGradients& d,
                               T* dv, Device device);

// conv_basis_cuda_rows.cu
// From the sums [u][T][2 columns] of the FFT, their mass and the near keys: o, lse, and which rows must be done
// directly.
struct RowSums {
  const float *sums, *mass, *shift, *bound;
  const float *unit, *excess;  // or null
};
template <class T>
void finish_rows(const Geometry& g, const RowSums& x, const T* q, const T* k, const T* v, T* o, float* lse,
                 uint8_t* direct, Device device);
// The last rows of every head, from q and k: decoding.
template <class T>
void last_rows(const Geometry& g, const T* q, const T* k, const T* v, int rows, T* o, Device device);

// conv_basis_cuda_direct.cu
// What `direct` leaves to it, from the scores: rows' o and lse, and what edges add to them.
template <class T>
void direct_rows(const Geometry& g, const float* low, const float* up, const T* q, const T* k, const T* v,
                 const uint8_t* direct, const Groups& groups, const float* small, T* o, float* lse, Device device);
// conv_basis_cuda_direct_values.cu, conv_basis_cuda_direct_scores.cu
// Adds the part of these pairs to dv (fresh: it holds nothing yet, and is written up to groups.stop), and to t's du.
template <class T>
void direct_values(const Geometry& g, const RowTensors<T>& x, const float* low, const float* up, bool fresh,
                   const RowGradients& d, Device device);
template <class T>
void direct_scores(const Geometry& g, const RowTensors<T>& x, const Triangle& t, const RowGradients& d, Device device);

// conv_basis_cuda_pairs.cu
void list_groups(const Geometry& g, const uint8_t* direct, const Groups& out, Device device);
// delta and factor.
template <class T>
void gradient_rows(const Geometry& g, const RowTensors<T>& x, const float* shift, const RowGradients& d, Device device);
// Adds the near pairs to dv, dk and dq.
template <class T>
void near_pairs(const Geometry& g, const RowTensors<T>& x, const RowGradients& d, Device device);
// conv_basis_cuda_gradient.cu
// Adds scale du^T y[s] to `into` at every position, and scale du x to `at` at the breakpoints, x the positions' rows;
// or writes them to `values_into` and `values_at`, which have q's layout.
template <class T>
struct Spread {
  float *into = nullptr, *at = nullptr;
  T *values_into = nullptr, *values_at = nullptr;
};
template <class T>
void spread(const Geometry& g, const Triangle& t, const T* q, const T* k, const Spread<T>& to, Device device);
// Sums the heads of each group: dq (groups of one), dk, dv in their own dtype.
template <class T>
void collect(const Geometry& g, const RowGradients& d, T* dq, T* dk, T* dv, Device device);

}  // namespace basis::ops::conv_cuda
