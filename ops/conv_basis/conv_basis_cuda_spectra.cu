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

// load(u, i, column): the complex value of position i.
template <class Load>
__device__ void to_spectra(const Geometry& g, bool by_cell, float2* spectra, Load&& load) {
  extern __shared__ float2 x[];
  using F = TileFft<kColumns>;
  int u = blockIdx.z, block = blockIdx.y, blocks = gridDim.y, lane = threadIdx.x % kColumns;
  int column = blockIdx.x * kColumns + lane;
  Span s(g, u, block, by_cell);
  if (s.begin >= s.end) return;
  for (int i = threadIdx.x / kColumns; i < g.places(); i += blockDim.x / kColumns) {
    int at = s.origin + i;
    x[F::at(i, lane)] = at >= s.begin && at < s.end ? load(u, at, column) : float2{0, 0};
  }
  __syncthreads();
  F::forward(x, g.twiddles, g.log);
  for (int i = threadIdx.x / kColumns; i < g.places(); i += blockDim.x / kColumns)
    spectra[g.spectrum(u, i, blocks, block) + column] = x[F::at(i, lane)];
}

template <class T>
__global__ void __launch_bounds__(512) values_kernel(Geometry g, const T* v, bool by_cell, float2* spectra) {
  int pairs = (g.Dv + 1) / 2;
  to_spectra(g, by_cell, spectra, [&](int u, int j, int column) -> float2 {
    if (column > pairs || j >= g.keys(u)) return {0, 0};
    if (column == pairs) return {1, 0};
    const T* p = v + g.value(u, j) + 2 * column;
    return {widen(p[0]), 2 * column + 1 < g.Dv ? widen(p[1]) : 0.0f};
  });
}

__global__ void __launch_bounds__(512) rows_kernel(Geometry g, const float2* rows, bool by_cell, float2* spectra) {
  to_spectra(g, by_cell, spectra,
             [&](int u, int i, int column) { return rows[(int64_t(u) * g.T + i) * g.columns + column]; });
}

__global__ void __launch_bounds__(512)
    back_kernel(Geometry g, const float2* spectra, bool by_cell, bool add, float2* rows) {
  extern __shared__ float2 x[];
  using F = TileFft<kColumns>;
  int u = blockIdx.z, block = blockIdx.y, blocks = gridDim.y, lane = threadIdx.x % kColumns;
  int column = blockIdx.x * kColumns + lane;
  Span s(g, u, block, by_cell);
  if (s.begin >= s.end) return;
  for (int i = threadIdx.x / kColumns; i < g.places(); i += blockDim.x / kColumns)
    x[F::at(i, lane)] = spectra[g.spectrum(u, i, blocks, block) + column];
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
