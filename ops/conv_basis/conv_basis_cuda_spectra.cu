// Between rows of values and spectra: a block transforms 4 complex columns of one tile or cell in shared memory.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

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

// x[i] = load(i) for i < n, eight loads in flight at a time.
template <class Load>
__device__ __forceinline__ void fill(float2* x, int n, Load&& load) {
  constexpr int batch = 8;
  int lane = threadIdx.x % kColumns, step = blockDim.x / kColumns;
  for (int first = threadIdx.x / kColumns; first < n; first += batch * step) {
    float2 v[batch];
#pragma unroll
    for (int b = 0; b < batch; ++b) v[b] = first + b * step < n ? load(first + b * step) : float2{0, 0};
#pragma unroll
    for (int b = 0; b < batch; ++b)
      if (first + b * step < n) x[TileFft<kColumns>::at(first + b * step, lane)] = v[b];
  }
}

// load(i): the complex value of row i of the tile, 0 <= i < 2L.
template <class Load>
__device__ __forceinline__ void to_spectra(const Geometry& g, float2* x, int column, float2* spectra, Load&& load) {
  using F = TileFft<kColumns>;
  int u = blockIdx.z, block = blockIdx.y, blocks = gridDim.y, lane = threadIdx.x % kColumns;
  fill(x, g.places(), load);
  __syncthreads();
  F::forward(x, g.twiddles, g.log);
  float2* out = spectra + g.spectrum(u, 0, blocks, block) + column;
  int64_t stride = int64_t(blocks) * g.columns;
#pragma unroll 4
  for (int i = threadIdx.x / kColumns; i < g.places(); i += blockDim.x / kColumns) out[i * stride] = x[F::at(i, lane)];
}

template <class T>
__global__ void __maxnreg__(80) values_kernel(Geometry g, const T* v, bool by_cell, float2* spectra) {
  extern __shared__ float2 x[];
  Span s(g, blockIdx.z, blockIdx.y, by_cell);
  if (s.begin >= s.end) return;
  int u = blockIdx.z, pairs = (g.Dv + 1) / 2, column = blockIdx.x * kColumns + threadIdx.x % kColumns;
  int end = min(s.end, g.keys(u)) - s.origin, begin = s.begin - s.origin;
  const T* p = v + g.value(u, s.origin) + 2 * column;
  int64_t stride = int64_t(g.Hkv) * g.Dv;
  bool inside = column < pairs, even = g.Dv % 2 == 0, ones = column == pairs;
  to_spectra(g, x, column, spectra, [&](int i) -> float2 {
    bool on = i >= begin && i < end;
    if (!on || !inside) return {on && ones ? 1.0f : 0.0f, 0};
    if (even) {
      Vec<T, 2> pair = load_vec<2>(p + i * stride);
      return {widen(pair.v[0]), widen(pair.v[1])};
    }
    return {widen(p[i * stride]), 2 * column + 1 < g.Dv ? widen(p[i * stride + 1]) : 0.0f};
  });
}

__global__ void __maxnreg__(80) rows_kernel(Geometry g, const float2* rows, bool by_cell, float2* spectra) {
  extern __shared__ float2 x[];
  Span s(g, blockIdx.z, blockIdx.y, by_cell);
  if (s.begin >= s.end) return;
  int column = blockIdx.x * kColumns + threadIdx.x % kColumns, begin = s.begin - s.origin, end = s.end - s.origin;
  const float2* p = rows + (int64_t(blockIdx.z) * g.T + s.origin) * g.columns + column;
  to_spectra(g, x, column, spectra, [&](int i) -> float2 {
    return i >= begin && i < end ? p[int64_t(i) * g.columns] : float2{0, 0};
  });
}

__global__ void __maxnreg__(80) back_kernel(Geometry g, const float2* spectra, bool by_cell, bool add, float2* rows) {
  extern __shared__ float2 x[];
  using F = TileFft<kColumns>;
  int u = blockIdx.z, block = blockIdx.y, blocks = gridDim.y, lane = threadIdx.x % kColumns;
  int column = blockIdx.x * kColumns + lane;
  Span s(g, u, block, by_cell);
  if (s.begin >= s.end) return;
  const float2* in = spectra + g.spectrum(u, 0, blocks, block) + column;
  int64_t stride = int64_t(blocks) * g.columns;
  fill(x, g.places(), [&](int i) { return in[i * stride]; });
  __syncthreads();
  F::inverse(x, g.twiddles, g.log);
  float scale = 1.0f / float(g.places());
  for (int i = threadIdx.x / kColumns; i < g.L; i += blockDim.x / kColumns) {
    int at = s.origin + i;
    if (at < s.begin || at >= s.end) continue;
    float2 value = x[F::at(i, lane)];
    float2* out = rows + (int64_t(u) * g.T + at) * g.columns + column;
    float2 before = add ? *out : float2{0, 0};
    *out = {before.x + scale * value.x, before.y + scale * value.y};
  }
}

dim3 grid_of(const Geometry& g, bool by_cell) {
  return dim3(unsigned(g.columns / kColumns), unsigned(by_cell && !g.aligned ? g.cells : g.tiles), unsigned(g.units));
}
size_t shared_of(const Geometry& g) { return TileFft<kColumns>::shared_bytes(g.log); }

}  // namespace

template <class T>
void values_to_spectra(const Geometry& g, const T* v, bool by_cell, float2* spectra, Device device) {
  launch_shared(values_kernel<T>, device, grid_of(g, by_cell), fft_threads(g), shared_of(g), g, v, by_cell, spectra);
}
template void values_to_spectra(const Geometry&, const float*, bool, float2*, Device);
template void values_to_spectra(const Geometry&, const bf16*, bool, float2*, Device);
template void values_to_spectra(const Geometry&, const f16*, bool, float2*, Device);

void rows_to_spectra(const Geometry& g, const float* rows, bool by_cell, float2* spectra, Device device) {
  launch_shared(rows_kernel, device, grid_of(g, by_cell), fft_threads(g), shared_of(g), g,
                reinterpret_cast<const float2*>(rows), by_cell, spectra);
}
void spectra_to_rows(const Geometry& g, const float2* spectra, bool by_cell, bool add, float* rows, Device device) {
  launch_shared(back_kernel, device, grid_of(g, by_cell), fft_threads(g), shared_of(g), g, spectra, by_cell, add,
                reinterpret_cast<float2*>(rows));
}

}  // namespace basis::ops::conv_cuda
