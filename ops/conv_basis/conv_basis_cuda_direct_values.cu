// Backward of what does not go through the FFT: dv by tiles of 64 keys, du by tiles of 128 lags, each owned by one
// block that goes through the rows in order.
#include "ops/conv_basis/conv_basis_cuda_direct.cuh"

namespace basis::ops::conv_cuda {
namespace {

// dv[j] += sum over rows i of p(i, j) do_i. A block per 64 keys and 64 channels, 16 keys a warp.
constexpr int kValueThreads = 128;
template <bool Exact, class T>
struct Values {
  const Geometry& g;
  const RowTensors<T>& x;
  const float *low, *up;   // scores of the head
  float *dout, *lse;       // [64][72], [64] in shared memory
  int *row, *begin, *end;  // [64] the same; end: behind the last key
  int64_t* above;          // the same
  int u, d0, first;        // first: key of this thread, beside first + 8
  int64_t offset[2];
  float acc[kSide / 8][4];

  // 64 rows, the row of each slot given by `at`, T for none.
  template <bool Edges, class At>
  __device__ void add(bool four, At at) {
    int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4, keys = g.keys(u);
    __syncthreads();
    if (threadIdx.x < kSide) {
      int i = at(int(threadIdx.x));
      float l = row_lse<Edges>(g, x, u, i);
      row[threadIdx.x] = i, lse[threadIdx.x] = l, begin[threadIdx.x] = 0;
      if (l < INFINITY) {
        end[threadIdx.x] = Edges ? min(g.edge(u, i / g.L).end, keys) : g.last_key(u, i);
        if (Edges) begin[threadIdx.x] = g.edge(u, i / g.L).begin;
        above[threadIdx.x] = g.causal ? 0 : upper_offset(g, u, i);
      }
    }
    __syncthreads();
    stage<kValueThreads, T>(g, four, dout, kSide, d0,
                            [&](int s) { return lse[s] < INFINITY ? x.dout + g.output(u, row[s]) : nullptr; });
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kSide / 8; ++m) {
      float p[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int s = m * 8 + c + e / 2 * 4, i = row[s], j = first + e % 2 * 8;
        bool on = lse[s] < INFINITY && j >= begin[s] && j < end[s] && !g.near(i, j);
        p[e] = on ? exponential<Exact>((j <= i ? low[offset[e % 2] + i] : up[above[s] + j]) - lse[s]) : 0.0f;
      }
      tf32::Split<4, Exact> a(p);
#pragma unroll
      for (int k = 0; k < kSide / 8; ++k) {
        const float* from = &dout[(m * 8 + c) * kRowStride + k * 8 + r];
        float b[2] = {from[0], from[4 * kRowStride]};
        tf32::mma(acc[k], a, tf32::Split<2, Exact>(b));
      }
    }
  }
};

template <bool Exact, class T>
__global__ void __launch_bounds__(kValueThreads)
    values_kernel(Geometry g, RowTensors<T> x, const float* low, const float* up, bool fresh, bool four,
                  RowGradients out) {
  __shared__ __align__(16) float dout[kSide * kRowStride];
  __shared__ float lse[kSide];
  __shared__ int row[kSide], begin[kSide], end[kSide];
  __shared__ int64_t above[kSide];
  int u = blockIdx.y, j0 = blockIdx.x * kSide, d0 = blockIdx.z * kSide, count = out.groups.count[u], keys = g.keys(u);
  int stop = out.groups.stop[u];
  if (stop == 0 || (g.causal && j0 >= stop)) return;
  const int* listed = out.groups.of(g, u);
  Values<Exact, T> values{
      g, x, low + g.score_row(u, 0), up ? up + g.score_row(u, 0) : nullptr, dout, lse, row, begin, end, above, u, d0};
  values.first = j0 + int(threadIdx.x) / 32 * kGroup + int(threadIdx.x) % 32 / 4;
  for (int h = 0; h < 2; ++h)
    values.offset[h] = values.first + 8 * h < keys ? lower_offset(g, u, values.first + 8 * h) : 0;
  for (auto& tile : values.acc)
    for (float& a : tile) a = 0;
  for (int n = count; n > 0; n -= kSideGroups) {  // whole rows, the last groups first
    if (g.causal && (listed[n - 1] + 1) * kGroup <= j0) break;
    values.template add<false>(four, [&](int s) {
      int at = n - 1 - s / kGroup;
      return at < 0 ? g.T : listed[at] * kGroup + s % kGroup;
    });
  }
  int last = min(g.tiles - 1, (j0 + kSide - 1) / g.L + 1);
  for (int t = j0 / g.L + 1; g.causal && !g.window && t <= last; ++t) {  // tiles of whose edges these keys are
    if (!(x.direct[int64_t(u) * g.T + t * g.L] & kEdge)) continue;
    for (int i0 = t * g.L; i0 < (t + 1) * g.L; i0 += kSide)
      values.template add<true>(four, [&](int s) { return i0 + s < (t + 1) * g.L ? i0 + s : g.T; });
  }
  int c = threadIdx.x % 4;
#pragma unroll
  for (int k = 0; k < kSide / 8; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int j = values.first + e / 2 * 8, d = d0 + k * 8 + 2 * c + e % 2;
      if (j >= g.T || d >= 2 * g.columns) continue;
      float* dv = out.dv + (int64_t(u) * g.T + j) * 2 * g.columns + d;
      *dv = (fresh ? 0.0f : *dv) + values.acc[k][e];
    }
}

}  // namespace

template <class T>
void direct_values(const Geometry& g, const RowTensors<T>& x, const float* low, const float* up, bool fresh,
                   const RowGradients& d, Device device) {
  dim3 grid(unsigned(ceil_div(g.T, kSide)), unsigned(g.units), unsigned(ceil_div(2 * g.columns, kSide)));
  launch_shared(g.exact ? values_kernel<true, T> : values_kernel<false, T>, device, grid, kValueThreads, 0, g, x, low,
                up, fresh, aligned16(g.Dv, {x.dout}), d);
}

#define INSTANTIATE(T)                                                                                 \
  template void direct_values(const Geometry&, const RowTensors<T>&, const float*, const float*, bool, \
                              const RowGradients&, Device);
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(f16)
#undef INSTANTIATE

}  // namespace basis::ops::conv_cuda
