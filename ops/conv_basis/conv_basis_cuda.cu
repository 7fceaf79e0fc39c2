// Conv-basis attention on CUDA, a chunk of heads at a time; see conv_basis_cpu.cpp for the equations.
#include <bit>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <numbers>

#include "core/basic/basic.h"
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops {
namespace {

using namespace core;
using namespace conv_cuda;

constexpr int64_t kScratch = int64_t{3} << 30;  // bytes that a chunk of heads may take, one head at least
constexpr int64_t kLargestTile = 2048;          // 2L points x 4 columns fill a multiprocessor's shared memory

const float2* twiddles(int64_t n, Device device) {
  static std::mutex mutex;
  static auto* tables = new std::map<std::pair<int, int64_t>, Tensor>;  // leaked: the driver may be gone at exit
  std::lock_guard lock(mutex);
  Tensor& table = (*tables)[{device.index, n}];
  if (!table) {
    std::vector<float> w;
    for (int64_t j = 0; j < n; ++j) {
      double angle = -2 * std::numbers::pi * double(j) / double(n);
      w.push_back(float(std::cos(angle))), w.push_back(float(std::sin(angle)));
    }
    table = Tensor::from(w, {2 * n}, device);
  }
  return reinterpret_cast<const float2*>(table.data<float>());
}

// 64 tiles, between 64 and 2048 positions each; no longer than a segment.
int64_t tile_on_cuda(const ConvBasisOptions& o, int64_t T, int64_t segments) {
  if (o.tile > 0) return std::min(o.tile, kLargestTile);
  int64_t tile = std::clamp(int64_t(std::bit_ceil(uint64_t(ceil_div(T, 64)))), int64_t{64}, kLargestTile);
  return std::max<int64_t>(8, std::min(tile, int64_t(std::bit_floor(uint64_t(std::max<int64_t>(1, T / segments))))));
}

// Everything a chunk's forward and backward share.
struct Chunk {
  Geometry g{};
  Device device;
  Tensor starts, cells_to, cell, shift, bound;
  std::vector<Tensor> kept;
  Triangle lower{}, upper{};

  float* floats(int64_t n) { return kept.emplace_back(Tensor::empty({n}, DType::f32, device)).data<float>(); }
  float* zeros(int64_t n) { return kept.emplace_back(Tensor::zeros({n}, DType::f32, device)).data<float>(); }
  float2* spectra(int64_t blocks) {
    return reinterpret_cast<float2*>(floats(2 * int64_t(g.units) * (int64_t{1} << g.log) * blocks * g.columns));
  }
  Units units() {
    if (!g.exact) return {};
    int64_t n = int64_t(g.units) * 2 * g.columns;
    return {floats(n), floats(n), floats(n), floats(g.units)};
  }
  Groups groups() {
    int64_t each = ceil_div(g.T, kGroup);
    int* at = kept.emplace_back(Tensor::empty({g.units * (each + 2)}, DType::i32, device)).data<int32_t>();
    return {at + 2 * g.units, at, at + g.units};
  }
  int64_t cell_blocks() const { return g.aligned ? g.tiles : g.cells; }
  const Triangle* other() const { return g.causal ? nullptr : &upper; }
  int64_t score_count() const { return int64_t(g.units) * g.segments * g.T; }
};

Geometry geometry_of(const ConvBasisShape& n, const ConvBasisOptions& o, DType dtype, Device device) {
  Geometry g{};
  int64_t L = tile_on_cuda(o, n.T, n.segments);
  g.T = int(n.T), g.H = int(n.H), g.Hkv = int(n.Hkv), g.D = int(n.D), g.Dv = int(n.Dv);
  g.L = int(L), g.log = std::countr_zero(uint64_t(2 * L)), g.tiles = int(ceil_div(n.T, L));
  g.segments = int(n.segments), g.cells = g.tiles + g.segments - 1;
  g.columns = int(ceil_div((n.Dv + 1) / 2, kColumns)) * kColumns;
  g.window = int(std::min(o.window, n.T)), g.causal = o.causal;
  g.aligned = !o.breakpoints && uniform_segment(o, n.T) % L == 0;
  g.scale = float(n.scale), g.exact = dtype == DType::f32, g.largest_ratio = largest_ratio(g.exact);
  g.key_lengths = o.key_lengths ? o.key_lengths.data<int32_t>() : nullptr;
  g.twiddles = twiddles(2 * L, device);
  return g;
}

// Calls f(chunk) for chunks of whole groups of heads, with the partition in place.
template <class F>
void for_chunks(const ConvBasisShape& n, const ConvBasisOptions& o, DType dtype, Device device, F&& f) {
  Geometry g = geometry_of(n, o, dtype, device);
  int64_t spectra = 16 * g.L * int64_t(g.aligned ? g.tiles : g.cells) * g.columns * (g.causal ? 2 : 4);
  int64_t rows = 4 * int64_t(g.T) * (2 * g.columns + 2 * g.D);
  int64_t factors = 4 * int64_t(g.segments) * g.T * 12 * (g.causal ? 1 : 2), group = n.H / n.Hkv, total = n.B * n.H;
  int64_t units = std::max<int64_t>(1, kScratch / (spectra + rows + factors) / group) * group;
  for (int64_t first = 0; first < total; first += units) {
    Chunk c;
    c.g = g, c.device = device;
    c.g.first = int(first), c.g.units = int(std::min(units, total - first));
    c.starts = Tensor::empty({c.g.units, g.segments}, DType::i32, device);
    c.cells_to = Tensor::empty({c.g.units, g.tiles + 1}, DType::i32, device);
    c.cell = Tensor::empty({c.g.units, g.cells, 4}, DType::i32, device);
    int* starts = c.starts.data<int32_t>();
    auto* cells = reinterpret_cast<Cell*>(c.cell.data<int32_t>());
    build_partition(c.g, o.breakpoints ? o.breakpoints.data<int32_t>() : nullptr, g.segments,
                    int(std::min<int64_t>(uniform_segment(o, n.T), n.T)), starts, c.cells_to.data<int32_t>(), cells,
                    device);
    c.g.starts = starts, c.g.cells_to = c.cells_to.data<int32_t>(), c.g.cell = cells;
    f(c);
  }
}

template <class T>
void make_factors(Chunk& c, const T* q, const T* k) {
  const Geometry& g = c.g;
  int64_t windows = int64_t(g.units) * g.segments * g.tiles;
  for (Triangle* t : {&c.lower, &c.upper}) {
    t->upper = t == &c.upper;
    if (t->upper && g.causal) continue;
    t->first_lag = t->upper ? std::max(1, g.window) : g.window;
    t->scores = c.floats(c.score_count()), t->mu = c.floats(windows), t->length = c.floats(windows);
    t->spectrum = reinterpret_cast<float2*>(c.floats(2 * windows * (g.L + 1)));
    t->scale = c.floats(int64_t(g.units) * g.cells * g.tiles);
    t->cumulative = c.floats(windows * 2 * g.L);
    score_segments(g, *t, q, k, c.device);
    sum_windows(g, *t, c.device);
    transform_windows(g, *t, c.device);
  }
  c.shift = Tensor::empty({g.units, g.tiles}, DType::f32, c.device), c.bound = c.shift.empty_like();
  choose_shift(g, c.lower, c.other(), c.shift.data<float>(), c.bound.data<float>(), c.device);
}

template <class T>
void forward(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& options, const Tensor& o,
             const Tensor& lse, const Tensor& direct) {
  ConvBasisShape n = check_conv_basis(q, k, v, options, "conv_basis_attention");
  Device device = q.device();
  const T *qp = q.data<T>(), *kp = k.data<T>(), *vp = v.data<T>();
  for_chunks(n, options, q.dtype(), device, [&](Chunk& c) {
    const Geometry& g = c.g;
    if (options.rows > 0) return last_rows<T>(g, qp, kp, vp, int(options.rows), o.data<T>(), device);
    float* l = lse.data<float>() + int64_t(g.first) * g.T;
    uint8_t* flags = direct.data<uint8_t>() + int64_t(g.first) * g.T;
    make_factors(c, qp, kp);
    const float* shift = c.shift.data<float>();
    float2 *cells = c.spectra(c.cell_blocks()), *tiles = c.spectra(g.tiles);
    Units units = c.units();
    float* excess = g.exact && g.causal ? c.floats(int64_t(g.units) * g.T) : nullptr;
    if constexpr (std::is_same_v<T, float>) value_units(g, vp, units, excess, device);
    values_to_spectra(g, vp, units.inverse, true, cells, device);
    bool final = g.causal && !g.window;  // after the FFT
    RowResults results{c.floats(int64_t(g.units) * g.T)};
    results.excess = excess;
    if (final) {
      results.lse = l, results.direct = flags;
      results.edge = c.floats(int64_t(g.units) * g.T), results.factor = c.floats(int64_t(g.units) * g.T);
    }
    row_mass(g, c.lower, c.other(), shift, c.bound.data<float>(), results, device);
    mix(g, c.lower, cells, tiles, device);
    if (final) {
      spectra_to_output(g, tiles, results.factor, units.unit, o.data<T>(), device);
    } else {
      float* sums = c.floats(int64_t(g.units) * g.T * 2 * g.columns);
      spectra_to_rows(g, tiles, nullptr, false, false, sums, device);
      if (!g.causal) {
        values_to_spectra(g, vp, units.inverse, false, tiles, device);
        mix_transposed(g, c.upper, tiles, cells, device);
        spectra_to_rows(g, cells, nullptr, true, true, sums, device);
      }
      RowSums x{sums, results.mass, shift, c.bound.data<float>(), units.unit, excess};
      finish_rows(g, x, qp, kp, vp, o.data<T>(), l, flags, device);
    }
    direct_rows(g, c.lower.scores, c.upper.scores, qp, kp, vp, flags, c.groups(), units.small, o.data<T>(), l, device);
  });
}

template <class T>
void backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
              const Tensor& direct, const Tensor& dout, const ConvBasisOptions& options, const Tensor& dq,
              const Tensor& dk, const Tensor& dv) {
  ConvBasisShape n = check_conv_basis(q, k, v, options, "conv_basis_attention");
  Device device = q.device();
  bool own = options.causal && !options.window && n.H == n.Hkv;  // each gradient has one source: no f32 sums
  if (own) core::fill(dk, 0);
  for_chunks(n, options, q.dtype(), device, [&](Chunk& c) {
    const Geometry& g = c.g;
    int64_t positions = int64_t(g.units) * g.T;
    RowTensors<T> x{q.data<T>(),
                    k.data<T>(),
                    v.data<T>(),
                    o.data<T>(),
                    dout.data<T>(),
                    lse.data<float>() + int64_t(g.first) * g.T,
                    direct.data<uint8_t>() + int64_t(g.first) * g.T};
    make_factors(c, x.q, x.k);
    const float* shift = c.shift.data<float>();
    RowGradients d{own ? nullptr : c.zeros(positions * g.D),
                   own ? nullptr : c.zeros(positions * g.D),
                   c.floats(positions * 2 * g.columns),
                   c.floats(positions),
                   c.floats(positions),
                   c.groups()};
    if (g.causal && !g.window) drop_edges(g, c.lower, x.direct, device);
    gradient_rows(g, x, shift, d, device);
    Units units = c.units();
    if constexpr (std::is_same_v<T, float>) gradient_units(g, x.dout, d.factor, units, device);

    float2 *v_cells = c.spectra(c.cell_blocks()), *x_tiles = c.spectra(g.tiles), *out = c.spectra(c.cell_blocks());
    values_to_spectra(g, x.v, units.shared, true, v_cells, device);
    gradient_to_spectra(g, x.dout, d.factor, units.inverse, false, x_tiles, device);
    mix_transposed(g, c.lower, x_tiles, out, device);
    if (own) {
      direct_values(g, x, c.lower.scores, nullptr, true, d, device);
      spectra_to_value_gradient(g, out, units.unit, d, dv.data<T>(), device);
    } else {
      spectra_to_rows(g, out, units.unit, true, false, d.dv, device);
    }
    auto gradient_of = [&](Triangle& t, const float2* cells, const float2* tiles) {
      t.sums = reinterpret_cast<float2*>(c.floats(2 * int64_t(g.units) * g.segments * g.tiles * (g.L + 1)));
      t.du = c.floats(c.score_count()), t.du_low = c.floats(c.score_count());
      gradient_of_mass(g, t, shift, d.factor, d.delta, x.direct, device);
      correlate(g, t, cells, tiles, device);
      gradient_of_windows(g, t, device);
      direct_scores(g, x, t, d, device);
    };
    gradient_of(c.lower, v_cells, x_tiles);
    if (!g.causal) {
      float2 *x_cells = v_cells, *v_tiles = x_tiles;
      gradient_to_spectra(g, x.dout, d.factor, units.inverse, true, x_cells, device);
      values_to_spectra(g, x.v, units.shared, false, v_tiles, device);
      mix(g, c.upper, x_cells, out, device);
      spectra_to_rows(g, out, units.unit, false, true, d.dv, device);
      gradient_of(c.upper, x_cells, v_tiles);
    }
    if (!own) direct_values(g, x, c.lower.scores, c.upper.scores, false, d, device), near_pairs(g, x, d, device);
    if (own) return spread<T>(g, c.lower, x.q, x.k, {nullptr, nullptr, dq.data<T>(), dk.data<T>()}, device);
    spread<T>(g, c.lower, x.q, x.k, {d.dq, d.dk}, device);
    if (!g.causal) spread<T>(g, c.upper, x.q, x.k, {d.dk, d.dq}, device);
    collect(g, d, dq.data<T>(), dk.data<T>(), dv.data<T>(), device);
  });
}

template <class T>
bool add_kernels() {
  return conv_basis_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         conv_basis_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered = add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
