// Every product is one tiled kernel over the heads that reads its factors through two functions of (row, column), so
// that grouped heads, masks and dropout are index arithmetic. Sums and probabilities in f32 (f64 for f64).
#include "core/cuda/launch.cuh"
#include "ops/naive_attention/naive_attention.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kTile = 64, kDepth = 16, kSide = 16, kEach = kTile / kSide;  // a block is kSide x kSide threads
constexpr int kThreads = 256;

// What the kernels know of a call; offsets are in elements.
struct Geometry {
  AttentionShape n;
  bool causal;
  int64_t window, sink;
  const int32_t* key_lengths;  // [B] or null
  double dropout;
  uint64_t seed, stream;
  const uint64_t* base;
  int64_t group;  // query heads of a key head

  Geometry(const AttentionShape& shape, const AttentionOptions& o)
      : n(shape),
        causal(o.causal),
        window(o.window),
        sink(o.sink),
        key_lengths(o.key_lengths ? o.key_lengths.data<int32_t>() : nullptr),
        dropout(o.dropout),
        seed(o.seed),
        stream(o.stream),
        base(o.base),
        group(shape.H / shape.Hkv) {}

  // head: b H + h for queries and outputs, b Hkv + g for keys and values.
  __device__ int64_t query(int64_t head, int64_t i, int64_t width) const {
    return ((head / n.H * n.T + i) * n.H + head % n.H) * width;
  }
  __device__ int64_t key(int64_t head, int64_t j, int64_t width) const {
    return ((head / n.Hkv * n.S + j) * n.Hkv + head % n.Hkv) * width;
  }
  __device__ int64_t key_head(int64_t head) const { return head / group; }  // exact, because H = group Hkv
  __device__ int64_t p(int64_t head, int64_t i, int64_t j) const { return (head * n.T + i) * n.S + j; }
  __device__ VisibleKeys visible(int64_t head, int64_t i) const {
    int64_t keys = n.S;
    if (key_lengths) keys = min(max(int64_t{key_lengths[head / n.H]}, int64_t{0}), n.S);
    return visible_keys(causal, window, sink, i + n.S - n.T, keys);
  }
  __device__ float factor(int64_t at) const {
    return dropout > 0 ? dropout_factor(dropout, seed, stream_at(stream, base), uint64_t(at)) : 1.0f;
  }
};

// out(z, i, j) = sum_k a(z, i, k) b(z, k, j), i < m, j < n, k < depth, for z = blockIdx.x.
template <class A, class LoadA, class LoadB, class Store>
__global__ void __launch_bounds__(kThreads)
    product_kernel(int64_t m, int64_t n, int64_t depth, LoadA a, LoadB b, Store store) {
  __shared__ A left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  int64_t z = blockIdx.x, i0 = int64_t(blockIdx.y) * kTile, j0 = int64_t(blockIdx.z) * kTile;
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  A sum[kEach][kEach] = {};
  for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
    for (int e = threadIdx.x; e < kTile * kDepth; e += kThreads) {
      int k = e % kDepth, r = e / kDepth;
      left[k][r] = i0 + r < m && k0 + k < depth ? a(z, i0 + r, k0 + k) : A(0);
      right[k][r] = j0 + r < n && k0 + k < depth ? b(z, k0 + k, j0 + r) : A(0);
    }
    __syncthreads();
    for (int k = 0; k < kDepth; ++k)
#pragma unroll
      for (int r = 0; r < kEach; ++r)
#pragma unroll
        for (int c = 0; c < kEach; ++c) sum[r][c] += left[k][ty + r * kSide] * right[k][tx + c * kSide];
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kEach; ++r)
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      int64_t i = i0 + ty + r * kSide, j = j0 + tx + c * kSide;
      if (i < m && j < n) store(z, i, j, sum[r][c]);
    }
}

template <class A, class LoadA, class LoadB, class Store>
void product(Device device, int64_t batch, int64_t m, int64_t n, int64_t depth, LoadA a, LoadB b, Store store) {
  dim3 grid(unsigned(batch), unsigned(ceil_div(m, kTile)), unsigned(ceil_div(n, kTile)));
  launch_shared(product_kernel<A, LoadA, LoadB, Store>, device, grid, kThreads, 0, m, n, depth, a, b, store);
}

// A block per row of p: softmax over the visible keys, 0 elsewhere.
template <class A>
__global__ void __launch_bounds__(kThreads) softmax_kernel(Geometry g, A* p) {
  int64_t row = blockIdx.x, s = g.n.S;
  p += row * s;
  VisibleKeys seen = g.visible(row / g.n.T, row % g.n.T);
  A top = -A(INFINITY), sum = 0;
  for (int64_t j = threadIdx.x; j < s; j += kThreads)
    if (seen.contains(j)) top = Max::apply(p[j], top);
  top = block_reduce<Max, kThreads>(top);
  for (int64_t j = threadIdx.x; j < s; j += kThreads)
    if (seen.contains(j)) sum += exp(p[j] - top);
  sum = block_reduce<Sum, kThreads>(sum);
  for (int64_t j = threadIdx.x; j < s; j += kThreads) p[j] = seen.contains(j) ? exp(p[j] - top) / sum : A(0);
}

// A block per row: ds = scale p (dp - <p, dp>), over dp.
template <class A>
__global__ void __launch_bounds__(kThreads) softmax_backward_kernel(Geometry g, const A* p, A* dp) {
  int64_t s = g.n.S;
  p += blockIdx.x * s, dp += blockIdx.x * s;
  A mean = 0;
  for (int64_t j = threadIdx.x; j < s; j += kThreads) mean += p[j] * dp[j];
  mean = block_reduce<Sum, kThreads>(mean);
  for (int64_t j = threadIdx.x; j < s; j += kThreads) dp[j] = A(g.n.scale) * p[j] * (dp[j] - mean);
}

template <class T>
void forward(const Tensor& tq, const Tensor& tk, const Tensor& tv, const AttentionOptions& o, const Tensor& out,
             const Tensor& probabilities) {
  using A = Accumulator<T>;
  Geometry g(check_attention(tq, tk, tv, o, "naive_attention"), o);
  AttentionShape n = g.n;
  Device device = tq.device();
  const T *q = tq.data<T>(), *k = tk.data<T>(), *v = tv.data<T>();
  T* y = out.data<T>();
  A* p = probabilities.data<A>();
  int64_t heads = n.B * n.H;
  product<A>(
      device, heads, n.T, n.S, n.D,
      [=] __device__(int64_t z, int64_t i, int64_t d) { return widen(q[g.query(z, i, n.D) + d]); },
      [=] __device__(int64_t z, int64_t d, int64_t j) { return widen(k[g.key(g.key_head(z), j, n.D) + d]); },
      [=] __device__(int64_t z, int64_t i, int64_t j, A s) { p[g.p(z, i, j)] = A(n.scale) * s; });
  launch(softmax_kernel<A>, device, heads * n.T, kThreads, g, p);
  product<A>(
      device, heads, n.T, n.Dv, n.S,
      [=] __device__(int64_t z, int64_t i, int64_t j) {
        int64_t at = g.p(z, i, j);
        return p[at] * A(g.factor(at));
      },
      [=] __device__(int64_t z, int64_t j, int64_t d) { return widen(v[g.key(g.key_head(z), j, n.Dv) + d]); },
      [=] __device__(int64_t z, int64_t i, int64_t d, A s) { y[g.query(z, i, n.Dv) + d] = device_convert<T>(s); });
}

// Sums over the group's query heads run inside one product, of depth group x T: the same order every time.
template <class T>
void backward(const Tensor& tq, const Tensor& tk, const Tensor& tv, const AttentionOptions& o,
              const Tensor& probabilities, const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  using A = Accumulator<T>;
  Geometry g(check_attention(tq, tk, tv, o, "naive_attention"), o);
  AttentionShape n = g.n;
  Device device = tq.device();
  const T *q = tq.data<T>(), *k = tk.data<T>(), *v = tv.data<T>(), *dy = dout.data<T>();
  const A* p = probabilities.data<A>();
  T *gq = dq.data<T>(), *gk = dk.data<T>(), *gv = dv.data<T>();
  Tensor scores = probabilities.empty_like();
  A* ds = scores.data<A>();
  int64_t heads = n.B * n.H, key_heads = n.B * n.Hkv;
  product<A>(
      device, heads, n.T, n.S, n.Dv,
      [=] __device__(int64_t z, int64_t i, int64_t d) { return widen(dy[g.query(z, i, n.Dv) + d]); },
      [=] __device__(int64_t z, int64_t d, int64_t j) { return widen(v[g.key(g.key_head(z), j, n.Dv) + d]); },
      [=] __device__(int64_t z, int64_t i, int64_t j, A s) {
        int64_t at = g.p(z, i, j);
        ds[at] = s * A(g.factor(at));
      });
  launch(softmax_backward_kernel<A>, device, heads * n.T, kThreads, g, p, ds);
  product<A>(
      device, heads, n.T, n.D, n.S, [=] __device__(int64_t z, int64_t i, int64_t j) { return ds[g.p(z, i, j)]; },
      [=] __device__(int64_t z, int64_t j, int64_t d) { return widen(k[g.key(g.key_head(z), j, n.D) + d]); },
      [=] __device__(int64_t z, int64_t i, int64_t d, A s) { gq[g.query(z, i, n.D) + d] = device_convert<T>(s); });
  product<A>(
      device, key_heads, n.S, n.D, g.group * n.T,
      [=] __device__(int64_t z, int64_t j, int64_t r) { return ds[g.p(z * g.group + r / n.T, r % n.T, j)]; },
      [=] __device__(int64_t z, int64_t r, int64_t d) {
        return widen(q[g.query(z * g.group + r / n.T, r % n.T, n.D) + d]);
      },
      [=] __device__(int64_t z, int64_t j, int64_t d, A s) { gk[g.key(z, j, n.D) + d] = device_convert<T>(s); });
  product<A>(
      device, key_heads, n.S, n.Dv, g.group * n.T,
      [=] __device__(int64_t z, int64_t j, int64_t r) {
        int64_t at = g.p(z * g.group + r / n.T, r % n.T, j);
        return p[at] * A(g.factor(at));
      },
      [=] __device__(int64_t z, int64_t r, int64_t d) {
        return widen(dy[g.query(z * g.group + r / n.T, r % n.T, n.Dv) + d]);
      },
      [=] __device__(int64_t z, int64_t j, int64_t d, A s) { gv[g.key(z, j, n.Dv) + d] = device_convert<T>(s); });
}

template <class T>
bool add_kernels() {
  return naive_attention_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         naive_attention_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
