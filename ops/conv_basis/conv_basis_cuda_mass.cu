// The normaliser of each row, the sum of its factors, and its gradient: sums of neighbouring lags or rows, each the
// difference of two cumulative sums. Its rounding is that of its window's sum, as the FFT's would be.
#include "ops/conv_basis/conv_basis_cuda.cuh"

namespace basis::ops::conv_cuda {
namespace {

constexpr int kThreads = 128;

// A thread per row.
__global__ void __launch_bounds__(kThreads) mass_kernel(Geometry g, Triangle lower, Triangle upper, RowResults out) {
  int slices = (g.L + kThreads - 1) / kThreads, tile = blockIdx.x / slices, u = blockIdx.y, keys = g.keys(u);
  int p = blockIdx.x % slices * kThreads + threadIdx.x, i = tile * g.L + p;
  if (p >= g.L || i >= g.T) return;
  const Cell* cells = g.cell + int64_t(u) * g.cells;
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  float mass = 0, edge = 0;
#pragma unroll 4
  for (int m = 0; m < to[tile + 1]; ++m) {
    Cell c = cells[m];
    float scale = lower.scale[(int64_t(u) * g.cells + m) * g.tiles + tile];
    float part = scale * lower.sum(g, u, c.segment, tile - c.tile, i - min(c.end, keys) + 1, i - c.begin);
    (m == to[tile] - 1 ? edge : mass) += part;
  }
  if (!g.causal) {
    int m = to[tile];
    while (cells[m].end <= i) ++m;
    for (int t = tile; t < g.tiles; ++t) {
      float scale = upper.scale[(int64_t(u) * g.cells + m) * g.tiles + t];
      mass += scale * upper.sum(g, u, cells[m].segment, t - tile, t * g.L - i, min(t * g.L + g.L, keys) - 1 - i);
    }
  }
  int64_t row = int64_t(u) * g.T + i;
  out.mass[row] = out.edge ? mass : mass + edge;
  if (out.edge) out.edge[row] = edge;
}

// A segment's scores often have a peak at short lags. The windows of the next tile hold it, though of that tile's rows
// only the first ones see it: the others would drown. Such a tile's edge is left out where that saves more pairs than
// it costs. A block per tile.
__global__ void __launch_bounds__(kThreads)
    choose_kernel(Geometry g, Triangle lower, const float* shift, const float* bound, RowResults out) {
  int tile = blockIdx.x, u = blockIdx.y, end = min(g.T, (tile + 1) * g.L);
  const Cell* cells = g.cell + int64_t(u) * g.cells;
  const int* to = g.cells_to + int64_t(u) * (g.tiles + 1);
  float all = bound[int64_t(u) * g.tiles + tile], rest = 0;  // what the tile moves, and without its edge
  for (int m = threadIdx.x; m < to[tile + 1]; m += kThreads)
    if (m != to[tile] - 1)
      rest += lower.scale[(int64_t(u) * g.cells + m) * g.tiles + tile] *
              lower.length[g.window_at(u, cells[m].segment, tile - cells[m].tile)];
  rest = block_reduce<Sum, kThreads>(rest);
  auto fits = [&](float moved, float mass) { return moved <= g.largest_ratio * mass && isfinite(logf(mass)); };
  int saved = 0;
  for (int i = tile * g.L + threadIdx.x; i < end; i += kThreads) {
    float mass = out.mass[int64_t(u) * g.T + i] + out.edge[int64_t(u) * g.T + i];
    float more = out.excess ? out.excess[int64_t(u) * g.T + i] : 1.0f;
    saved += !fits(more * all, mass) && fits(more * rest, mass);
  }
  saved = block_reduce<Sum, kThreads>(saved);
  bool without = tile > 0 && int64_t(saved) * tile > g.L;
  if (without && threadIdx.x == 0) lower.scale[(int64_t(u) * g.cells + to[tile] - 1) * g.tiles + tile] = 0;
  float log_unit = shift[int64_t(u) * g.tiles + tile], least = g.exact ? 1e-7f : 1e-4f;
  for (int i = tile * g.L + threadIdx.x; i < end; i += kThreads) {
    int64_t row = int64_t(u) * g.T + i;
    float edge = out.edge[row], mass = out.mass[row], total = mass + edge;
    bool done = fits((out.excess ? out.excess[row] : 1.0f) * (without ? rest : all), total);
    bool none = without && !(mass > least * edge);  // nothing through the FFT
    if (!without) mass = total;
    out.direct[row] = (done ? 0 : kWhole) | (without ? kEdge : 0);
    out.lse[row] = none ? -INFINITY : log_unit + logf(mass);
    out.factor[row] = done && !none ? 1 / (float(g.places()) * mass) : 0.0f;
  }
}

__global__ void drop_kernel(Geometry g, Triangle lower, const uint8_t* direct) {
  int tile = blockIdx.x * blockDim.x + threadIdx.x, u = blockIdx.y;
  if (tile >= g.tiles || !(direct[int64_t(u) * g.T + tile * g.L] & kEdge)) return;
  int m = g.cells_to[int64_t(u) * (g.tiles + 1) + tile] - 1;
  lower.scale[(int64_t(u) * g.cells + m) * g.tiles + tile] = 0;
}

// before[i] = sum of -factor delta from the start of i's tile to i. A warp per tile.
__global__ void __launch_bounds__(kThreads)
    cumulate_kernel(Geometry g, const float* factor, const float* delta, float* before) {
  int tile = blockIdx.x * (kThreads / 32) + threadIdx.x / 32, u = blockIdx.y, lane = threadIdx.x % 32;
  if (tile >= g.tiles) return;
  int begin = tile * g.L, end = min(g.T, begin + g.L);
  float sum = 0;
#pragma unroll 4
  for (int i0 = begin; i0 < end; i0 += 32) {
    int64_t at = int64_t(u) * g.T + i0 + lane;
    float a = i0 + lane < end ? -factor[at] * delta[at] : 0.0f;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      float other = __shfl_up_sync(0xffffffffu, a, offset);
      if (lane >= offset) a += other;
    }
    a += sum;
    if (i0 + lane < end) before[at] = a;
    sum = __shfl_sync(0xffffffffu, a, 31);
  }
}

// A thread per score: du = sum over its rows, tile by tile; a breakpoint's rows at lag l are [first, last].
__global__ void __launch_bounds__(kThreads)
    mass_gradient_kernel(Geometry g, Triangle t, const float* shift, const float* before, const uint8_t* direct) {
  int r = blockIdx.y, u = blockIdx.z, start = g.start(u, r), lag = blockIdx.x * kThreads + threadIdx.x,
      keys = g.keys(u);
  if (lag >= g.T - start) return;
  int end = min(r + 1 < g.segments ? min(g.T, g.start(u, r + 1)) : g.T, t.upper ? g.T : keys);
  int first = t.upper ? start : start + lag, last = t.upper ? min(end, keys - lag) - 1 : min(end + lag, g.T) - 1;
  int64_t at = g.score_row(u, r) + start + lag;
  float logit = t.scores[at], du = 0;
  for (int tile = first / g.L; lag >= t.first_lag && tile * g.L <= last; ++tile) {
    int begin = tile * g.L, low = max(begin, first), high = min(begin + g.L - 1, last);
    if (low > high) continue;
    const float* sums = before + int64_t(u) * g.T;
    auto of = [&](int a, int b) { return a > b ? 0.0f : sums[b] - (a > begin ? sums[a - 1] : 0.0f); };
    float sum = 0;
    if (!t.upper && direct[int64_t(u) * g.T + begin] & kEdge && g.edge(u, tile).segment == r) {
      // Rows that meet a key of the edge at this lag are left out.
      int from = g.edge(u, tile).begin + lag;
      sum = of(low, min(high, from - 1)) + of(max(low, begin + lag), high);
    } else {
      sum = of(low, high);
    }
    if (sum != 0) du += expf(logit - shift[int64_t(u) * g.tiles + tile]) * sum;
  }
  t.du[at] = du, t.du_low[at] = 0;
}

}  // namespace

void row_mass(const Geometry& g, const Triangle& lower, const Triangle* upper, const float* shift, const float* bound,
              const RowResults& out, Device device) {
  int64_t blocks = g.tiles * ceil_div(g.L, kThreads);
  launch_shared(mass_kernel, device, dim3(unsigned(blocks), unsigned(g.units)), kThreads, 0, g, lower,
                upper ? *upper : lower, out);
  if (out.edge)
    launch_shared(choose_kernel, device, dim3(unsigned(g.tiles), unsigned(g.units)), kThreads, 0, g, lower, shift,
                  bound, out);
}

void drop_edges(const Geometry& g, const Triangle& lower, const uint8_t* direct, Device device) {
  launch_shared(drop_kernel, device, dim3(unsigned(ceil_div(g.tiles, 64)), unsigned(g.units)), 64, 0, g, lower, direct);
}

void gradient_of_mass(const Geometry& g, const Triangle& t, const float* shift, const float* factor, const float* delta,
                      const uint8_t* direct, Device device) {
  Tensor before = Tensor::empty({g.units, g.T}, DType::f32, device);
  launch_shared(cumulate_kernel, device, dim3(unsigned(ceil_div(g.tiles, kThreads / 32)), unsigned(g.units)), kThreads,
                0, g, factor, delta, before.data<float>());
  launch_shared(mass_gradient_kernel, device,
                dim3(unsigned(ceil_div(g.T, kThreads)), unsigned(g.segments), unsigned(g.units)), kThreads, 0, g, t,
                shift, before.data<float>(), direct);
}

}  // namespace basis::ops::conv_cuda
