// Between rows of values and spectra: a block transforms 4 complex columns of one tile or cell in shared memory.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

using F = TileFft<kColumns>;

// Block `b` of a head: positions [begin, end) of the tile that starts at `origin`; none for an unused cell.
struct Span {
  int origin, begin, end;
  __device__ Span(const Geometry& g, int u, int b, bool by_cell) {
    if (by_cell && !g.aligned) {
      if (b >= g.cells_to[int64_t(u) * (g.tiles + 1) + g.tiles]) {
        origin = begin = end = 0;
        return;
      }
      Cell c = g.cell[int64_t(u) * g.cells + b];
      origin = c.tile * g.L, begin = c.begin, end = c.end;
    } else {
      origin = begin = b * g.L, end = min(g.T, origin + g.L);
    }
  }
};

// Pairs of neighbouring channels as complex numbers. Even: they may be read and written together.
template <bool Even, class T>
__device__ __forceinline__ float2 load_pair(const T* p, bool both) {
  if constexpr (Even) {
    Vec<T, 2> pair = load_vec<2>(p);
    return {widen(pair.v[0]), widen(pair.v[1])};
  } else {
    return {widen(p[0]), both ? widen(p[1]) : 0.0f};
  }
}
template <bool Even, class T>
__device__ __forceinline__ void store_pair(T* p, float2 x, bool both) {
  if constexpr (Even) {
    store_vec<2>(p, Vec<T, 2>{device_convert<T>(x.x), device_convert<T>(x.y)});
  } else {
    p[0] = device_convert<T>(x.x);
    if (both) p[1] = device_convert<T>(x.y);
  }
}

// A head's multipliers of the two channels of a column.
__device__ __forceinline__ float2 multipliers(const Geometry& g, const float* times, int u, int column,
                                              float otherwise) {
  if (!times) return {otherwise, otherwise};
  return reinterpret_cast<const float2*>(times)[int64_t(u) * g.columns + column];
}

// Values; or, with `factor`, rows of the gradient times it.
template <bool Even, bool Gradient, class T>
__global__ void __maxnreg__(80) to_spectra_kernel(Geometry g, const T* rows, const float* factor, const float* times,
                                                  bool by_cell, float2* spectra) {
  extern __shared__ float2 x[];
  int u = blockIdx.z, block = blockIdx.y, blocks = gridDim.y;
  Span s(g, u, block, by_cell);
  if (s.begin >= s.end) return;
  int column = blockIdx.x * kColumns + threadIdx.x % kColumns;
  int begin = s.begin - s.origin, end = (Gradient ? s.end : min(s.end, g.keys(u))) - s.origin;
  const T* p = rows + (Gradient ? g.output(u, s.origin) : g.value(u, s.origin)) + 2 * column;
  int stride = (Gradient ? g.H : g.Hkv) * g.Dv;
  bool inside = 2 * column < g.Dv, both = 2 * column + 1 < g.Dv;
  float2 unit = multipliers(g, times, u, column, Gradient ? 1.0f : 1 / kUnit);
  const float* by = factor + int64_t(u) * g.T + s.origin;
  float2* out = spectra + g.spectrum(u, 0, blocks, block) + column;
  int64_t step = int64_t(blocks) * g.columns;
  F::forward<true>(
      x, g.twiddles, g.log,
      [&](int i) -> float2 {
        if (i < begin || i >= end || !inside) return {0, 0};
        float2 v = load_pair<Even>(p + int64_t(i) * stride, both);
        float scale = Gradient ? by[i] : 1.0f;
        return {scale * v.x * unit.x, scale * v.y * unit.y};
      },
      [&](int place, float2 v) { out[place * step] = v; });
}

// f32 rows [u][T][2 columns].
__global__ void __maxnreg__(80)
    to_rows_kernel(Geometry g, const float2* spectra, const float* times, bool by_cell, bool add, float2* rows) {
  extern __shared__ float2 x[];
  int u = blockIdx.z, block = blockIdx.y, blocks = gridDim.y, column = blockIdx.x * kColumns + threadIdx.x % kColumns;
  Span s(g, u, block, by_cell);
  if (s.begin >= s.end) return;
  const float2* in = spectra + g.spectrum(u, 0, blocks, block) + column;
  int64_t step = int64_t(blocks) * g.columns;
  float scale = 1.0f / float(g.places());
  float2 unit = multipliers(g, times, u, column, 1);
  F::inverse<true>(
      x, g.twiddles, g.log, [&](int place) { return in[place * step]; },
      [&](int i, float2 v) {
        int at = s.origin + i;
        if (at < s.begin || at >= s.end) return;
        float2* out = rows + (int64_t(u) * g.T + at) * g.columns + column;
        float2 before = add ? *out : float2{0, 0};
        *out = {before.x + scale * v.x * unit.x, before.y + scale * v.y * unit.y};
      });
}

// Channels in their own dtype: factor x where rows are queries (0: left to direct_rows); else keys, which gain `extra`
// [u][T][2 columns] up to groups.stop.
template <bool Even, bool Keys, class T>
__global__ void __maxnreg__(80) to_values_kernel(Geometry g, const float2* spectra, const float* factor,
                                                 const float* times, const float2* extra, Groups groups, T* values) {
  extern __shared__ float2 x[];
  int u = blockIdx.z, block = blockIdx.y, blocks = gridDim.y, column = blockIdx.x * kColumns + threadIdx.x % kColumns;
  Span s(g, u, block, Keys);
  if (s.begin >= s.end) return;
  const float2* in = spectra + g.spectrum(u, 0, blocks, block) + column;
  int64_t step = int64_t(blocks) * g.columns;
  bool inside = 2 * column < g.Dv, both = 2 * column + 1 < g.Dv;
  float scale = 1.0f / float(g.places());
  float2 unit = multipliers(g, times, u, column, Keys ? 1.0f : kUnit);
  T* out = values + (Keys ? g.value(u, s.origin) : g.output(u, s.origin)) + 2 * column;
  int stride = (Keys ? g.Hkv : g.H) * g.Dv;
  const float* by = factor + int64_t(u) * g.T + s.origin;
  const float2* more = extra + (int64_t(u) * g.T + s.origin) * g.columns + column;
  int stop = Keys ? groups.stop[u] : 0, keys = g.keys(u);
  F::inverse<true>(
      x, g.twiddles, g.log, [&](int place) { return in[place * step]; },
      [&](int i, float2 v) {
        int at = s.origin + i;
        if (at < s.begin || at >= s.end || !inside) return;
        if constexpr (Keys) {
          float2 added = at < stop && at < keys ? more[int64_t(i) * g.columns] : float2{0, 0};
          v = at < keys ? float2{scale * v.x * unit.x + added.x, scale * v.y * unit.y + added.y} : float2{0, 0};
          store_pair<Even>(out + int64_t(i) * stride, v, both);
        } else if (by[i] != 0) {
          store_pair<Even>(out + int64_t(i) * stride, float2{by[i] * v.x * unit.x, by[i] * v.y * unit.y}, both);
        }
      });
}

dim3 grid_of(const Geometry& g, bool by_cell) {
  return dim3(unsigned(g.columns / kColumns), unsigned(by_cell && !g.aligned ? g.cells : g.tiles), unsigned(g.units));
}
size_t shared_of(const Geometry& g) { return F::shared_bytes(g.log); }

template <class T>
bool even(const Geometry& g, const T* p) {
  return g.Dv % 2 == 0 && reinterpret_cast<uintptr_t>(p) % (2 * sizeof(T)) == 0;
}

}  // namespace

template <class T>
void values_to_spectra(const Geometry& g, const T* v, const float* times, bool by_cell, float2* spectra,
                       Device device) {
  auto kernel = even(g, v) ? to_spectra_kernel<true, false, T> : to_spectra_kernel<false, false, T>;
  launch_shared(kernel, device, grid_of(g, by_cell), fft_threads(g), shared_of(g), g, v, nullptr, times, by_cell,
                spectra);
}
template <class T>
void gradient_to_spectra(const Geometry& g, const T* dout, const float* factor, const float* times, bool by_cell,
                         float2* spectra, Device device) {
  auto kernel = even(g, dout) ? to_spectra_kernel<true, true, T> : to_spectra_kernel<false, true, T>;
  launch_shared(kernel, device, grid_of(g, by_cell), fft_threads(g), shared_of(g), g, dout, factor, times, by_cell,
                spectra);
}
void spectra_to_rows(const Geometry& g, const float2* spectra, const float* times, bool by_cell, bool add, float* rows,
                     Device device) {
  launch_shared(to_rows_kernel, device, grid_of(g, by_cell), fft_threads(g), shared_of(g), g, spectra, times, by_cell,
                add, reinterpret_cast<float2*>(rows));
}
template <class T>
void spectra_to_output(const Geometry& g, const float2* spectra, const float* factor, const float* times, T* o,
                       Device device) {
  auto kernel = even(g, o) ? to_values_kernel<true, false, T> : to_values_kernel<false, false, T>;
  launch_shared(kernel, device, grid_of(g, false), fft_threads(g), shared_of(g), g, spectra, factor, times, nullptr,
                Groups{}, o);
}
template <class T>
void spectra_to_value_gradient(const Geometry& g, const float2* spectra, const float* times, const RowGradients& d,
                               T* dv, Device device) {
  auto kernel = even(g, dv) ? to_values_kernel<true, true, T> : to_values_kernel<false, true, T>;
  launch_shared(kernel, device, grid_of(g, true), fft_threads(g), shared_of(g), g, spectra, nullptr, times,
                reinterpret_cast<const float2*>(d.dv), d.groups, dv);
}

#define INSTANTIATE(T)                                                                                             \
  template void values_to_spectra(const Geometry&, const T*, const float*, bool, float2*, Device);                 \
  template void gradient_to_spectra(const Geometry&, const T*, const float*, const float*, bool, float2*, Device); \
  template void spectra_to_output(const Geometry&, const float2*, const float*, const float*, T*, Device);         \
  template void spectra_to_value_gradient(const Geometry&, const float2*, const float*, const RowGradients&, T*,   \
                                          Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
