// Backward of what does not go through the FFT: dv by tiles of 64 keys, du by tiles of 128 lags, each owned by one
// block that goes through the rows in order.
#include "ops/conv_basis/conv_basis_cuda_direct.cuh"

namespace basis::ops::conv_cuda {
namespace {

// dv[j] += sum over rows i of p(i, j) do_i. A block per 64 keys and 64 channels, 16 keys a warp.
constexpr int kValueThreads = 128;
struct Slot {  // a row
  float lse;
  int row, begin, end;  // its keys
  int64_t above;
};
template <bool Exact, class T>
struct Values {
  const Geometry& g;
  const RowTensors<T>& x;
  const float *low, *up;  // scores of the head
  T* dout;                // two tiles in shared memory, one read while the other arrives
  Slot* slots;            // [2][64] in shared memory
  int u, d0;
  int first;  // key of this thread, beside first + 8
  int64_t offset[2];
  float acc[kSide / 8][4];

  // `count` times 64 rows; at(n, s) gives row s of them, T for none.
  template <bool Edges, class At>
  __device__ void run(int count, bool aligned, At at) {
    auto load = [&](int n) {
      stage<kValueThreads>(g, aligned, dout + n % 2 * kSide * kRowStride, kSide, d0, [&](int s) {
        int i = at(n, s);
        return i < g.T ? x.dout + g.output(u, i) : nullptr;
      });
      if (threadIdx.x >= kSide) return;
      Slot slot{INFINITY, at(n, int(threadIdx.x)), 0, 0, 0};
      slot.lse = row_lse<Edges>(g, x, u, slot.row);
      if (slot.lse < INFINITY) {
        slot.end = Edges ? min(g.edge(u, slot.row / g.L).end, g.keys(u)) : g.last_key(u, slot.row);
        if (Edges) slot.begin = g.edge(u, slot.row / g.L).begin;
        if (!g.causal) slot.above = upper_offset(g, u, slot.row);
      }
      slots[n % 2 * kSide + threadIdx.x] = slot;
    };
    __syncthreads();
    if (count > 0) load(0);
    for (int n = 0; n < count; ++n) {
      wait_for_copies();
      __syncthreads();
      if (n + 1 < count) load(n + 1);
      add(dout + n % 2 * kSide * kRowStride, slots + n % 2 * kSide);
    }
  }
  __device__ void add(const T* dout, const Slot* slots) {
    int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < kSide / 8; ++m) {
      float p[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Slot& s = slots[m * 8 + c + e / 2 * 4];
        int i = s.row, j = first + e % 2 * 8;
        bool on = j >= s.begin && j < s.end && !g.near(i, j);
        p[e] = on ? exponential<Exact>((j <= i ? low[offset[e % 2] + i] : up[s.above + j]) - s.lse) : 0.0f;
      }
      tf32::Split<4, Exact> a(p);
#pragma unroll
      for (int k = 0; k < kSide / 8; ++k) {
        const T* from = &dout[(m * 8 + c) * kRowStride + k * 8 + r];
        float b[2] = {widen(from[0]), widen(from[4 * kRowStride])};
        tf32::mma(acc[k], a, tf32::Split<2, Exact>(b));
      }
    }
  }
};

template <bool Exact, class T>
__global__ void __launch_bounds__(kValueThreads)
    values_kernel(Geometry g, RowTensors<T> x, const float* low, const float* up, bool fresh, bool aligned,
                  RowGradients out) {
  __shared__ __align__(16) T dout[2 * kSide * kRowStride];
  __shared__ Slot slots[2 * kSide];
  int u = blockIdx.y, j0 = blockIdx.x * kSide, d0 = blockIdx.z * kSide, count = out.groups.count[u], keys = g.keys(u);
  int stop = out.groups.stop[u], before = 0;  // groups whose rows are all before these keys
  if (stop == 0 || (g.causal && j0 >= stop)) return;
  const int* listed = out.groups.of(g, u);
  Values<Exact, T> values{g, x, low + g.score_row(u, 0), up ? up + g.score_row(u, 0) : nullptr, dout, slots, u, d0};
  values.first = j0 + int(threadIdx.x) / 32 * kGroup + int(threadIdx.x) % 32 / 4;
  for (int h = 0; h < 2; ++h)
    values.offset[h] = values.first + 8 * h < keys ? lower_offset(g, u, values.first + 8 * h) : 0;
  for (auto& tile : values.acc)
    for (float& a : tile) a = 0;
  if (g.causal) before = groups_before(listed, count, j0);
  values.template run<false>((count - before + kSideGroups - 1) / kSideGroups, aligned, [&](int n, int s) {
    int at = before + n * kSideGroups + s / kGroup;
    return at < count ? listed[at] * kGroup + s % kGroup : g.T;
  });
  int last = min(g.tiles - 1, (j0 + kSide - 1) / g.L + 1);
  for (int t = j0 / g.L + 1; g.causal && !g.window && t <= last; ++t)  // tiles of whose edges these keys are
    if (x.direct[int64_t(u) * g.T + t * g.L] & kEdge)
      values.template run<true>((g.L + kSide - 1) / kSide, aligned, [&](int n, int s) {
        int i = t * g.L + n * kSide + s;
        return i < (t + 1) * g.L ? i : g.T;
      });
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
