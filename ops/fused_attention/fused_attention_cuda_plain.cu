// Attention in tiles without tensor cores, for every element type and any D and Dv up to 256. 16 x 16 threads share a
// tile of scores: thread (ty, tx) computes rows ty + 16 r and columns tx + 16 c. Tiles lie in shared memory in f32 (f64
// for f64), one column wider than they are, so that a column's reads hit different banks.
#include "ops/fused_attention/fused_attention_cuda.cuh"

namespace basis::ops::fused {
namespace {

constexpr int kThreads = 256, kSide = 16;

// Width: the widest head the tile takes. The tile is as high as shared memory allows.
template <class A, int Width>
struct Tiles {
  static constexpr int kTile = (Width <= 128 ? 64 : 32) * 4 / int(sizeof(A)), kEach = kTile / kSide,
                       kColumns = Width / kSide, kPerRow = kThreads / kTile;
  using Wide = A[kTile][Width + 1];
  using Square = A[kTile][kTile + 1];
};

template <class A>
__device__ A exp2_of(A x) {
  if constexpr (sizeof(A) == 8)
    return exp2(x);
  else
    return exp2f(x);
}
constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;

// tile[r][0, width) = rows r of `from`, `stride` elements apart; 0 from row `rows` on.
template <int Tile, class A, class T, int W>
__device__ void load(A (&tile)[Tile][W], const T* from, int64_t stride, int width, int rows) {
  for (int e = threadIdx.x; e < Tile * width; e += kThreads) {
    int r = e / width, d = e % width;
    tile[r][d] = r < rows ? widen(from[r * stride + d]) : A(0);
  }
}

// sum[r][c] = <a[ty + 16 r], b[tx + 16 c]>
template <int Each, class A, int Tile, int W>
__device__ void inner(A (&sum)[Each][Each], const A (&a)[Tile][W], const A (&b)[Tile][W], int depth) {
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
#pragma unroll
  for (int r = 0; r < Each; ++r)
#pragma unroll
    for (int c = 0; c < Each; ++c) sum[r][c] = 0;
  for (int d = 0; d < depth; ++d)
#pragma unroll
    for (int r = 0; r < Each; ++r)
#pragma unroll
      for (int c = 0; c < Each; ++c) sum[r][c] += a[ty + r * kSide][d] * b[tx + c * kSide][d];
}

// sum[r][c] += sum_j w(j, ty + 16 r) x[j][tx + 16 c]
template <int Each, int Columns, int Tile, class A, int W, class Weight>
__device__ void outer(A (&sum)[Each][Columns], const A (&x)[Tile][W], Weight w) {
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  for (int j = 0; j < Tile; ++j)
#pragma unroll
    for (int r = 0; r < Each; ++r) {
      A weight = w(j, ty + r * kSide);
#pragma unroll
      for (int c = 0; c < Columns; ++c) sum[r][c] += weight * x[j][tx + c * kSide];
    }
}

template <class T, int Each, int Columns, class A>
__device__ void store(const A (&sum)[Each][Columns], T* to, int64_t stride, int width, int rows) {
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
#pragma unroll
  for (int r = 0; r < Each; ++r)
#pragma unroll
    for (int c = 0; c < Columns; ++c)
      if (ty + r * kSide < rows && tx + c * kSide < width)
        to[(ty + r * kSide) * stride + tx + c * kSide] = device_convert<T>(sum[r][c]);
}

template <class A, int Width>
struct ForwardMemory {
  typename Tiles<A, Width>::Wide q, k, v;
  typename Tiles<A, Width>::Square s;
  A rescale[Tiles<A, Width>::kTile];
};

// A block per tile of queries, the longest first; blockIdx.x = tile from the end x (B H) + head.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads) forward_kernel(Call call, Pointers pointers) {
  using A = Accumulator<T>;
  using N = Tiles<A, Width>;
  extern __shared__ double shared_memory[];
  auto& m = *reinterpret_cast<ForwardMemory<A, Width>*>(shared_memory);
  int heads = call.B * call.H, head = int(blockIdx.x) % heads, b = head / call.H, h = head % call.H, g = h / call.group;
  int row0 = ((call.T + N::kTile - 1) / N::kTile - 1 - int(blockIdx.x) / heads) * N::kTile;
  int rows = min(N::kTile, call.T - row0), keys = call.keys(b);
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide, my_row = threadIdx.x / N::kPerRow;  // of the softmax
  int64_t ldq = int64_t{call.H} * call.D, ldk = int64_t{call.Hkv} * call.D, ldv = int64_t{call.Hkv} * call.Dv;
  load(m.q, static_cast<const T*>(pointers.q) + call.query(b, row0, h, call.D), ldq, call.D, rows);

  A sum[N::kEach][N::kColumns] = {}, top = -A(INFINITY), total = 0;
  SeenByRows seen = call.seen_by_rows(keys, row0, N::kTile);
  KeyTiles tiles = seen.tiles(N::kTile);
  for (int n = 0; n < tiles.count; ++n) {
    int k0 = tiles(n) * N::kTile, left = call.S - k0;
    load(m.k, static_cast<const T*>(pointers.k) + call.key(b, k0, g, call.D), ldk, call.D, left);
    load(m.v, static_cast<const T*>(pointers.v) + call.key(b, k0, g, call.Dv), ldv, call.Dv, left);
    __syncthreads();
    A s[N::kEach][N::kEach];
    inner(s, m.q, m.k, call.D);
#pragma unroll
    for (int r = 0; r < N::kEach; ++r) {
      Seen mine = call.seen(keys, row0 + ty + r * kSide);
#pragma unroll
      for (int c = 0; c < N::kEach; ++c)
        m.s[ty + r * kSide][tx + c * kSide] =
            mine.contains(k0 + tx + c * kSide) ? s[r][c] * A(call.scale * kLog2e) : -A(INFINITY);
    }
    __syncthreads();
    A highest = top;  // the kPerRow threads of a row are neighbours in a warp
    for (int j = threadIdx.x % N::kPerRow; j < N::kTile; j += N::kPerRow) highest = max(highest, m.s[my_row][j]);
    for (int o = N::kPerRow / 2; o; o /= 2) highest = max(highest, __shfl_xor_sync(~0u, highest, o));
    A shift = highest == -A(INFINITY) ? A(0) : highest, added = 0;
    for (int j = threadIdx.x % N::kPerRow; j < N::kTile; j += N::kPerRow) {
      A p = exp2_of(m.s[my_row][j] - shift);
      added += p;
      if (call.dropout > 0) p *= A(call.factor(call.row(b, h, row0 + my_row), k0 + j));
      m.s[my_row][j] = p;
    }
    for (int o = N::kPerRow / 2; o; o /= 2) added += __shfl_xor_sync(~0u, added, o);
    A rescale = exp2_of(top - shift);
    top = highest, total = total * rescale + added;
    if (threadIdx.x % N::kPerRow == 0) m.rescale[my_row] = rescale;
    __syncthreads();
#pragma unroll
    for (int r = 0; r < N::kEach; ++r)
#pragma unroll
      for (int c = 0; c < N::kColumns; ++c) sum[r][c] *= m.rescale[ty + r * kSide];
    outer(sum, m.v, [&](int j, int row) { return m.s[row][j]; });
    __syncthreads();
  }
  if (threadIdx.x % N::kPerRow == 0) {
    m.rescale[my_row] = total > 0 ? 1 / total : A(0);
    if (my_row < rows)
      static_cast<A*>(pointers.lse)[call.row(b, h, row0 + my_row)] = total > 0 ? top * A(kLn2) + log(total) : top;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < N::kEach; ++r)
#pragma unroll
    for (int c = 0; c < N::kColumns; ++c) sum[r][c] *= m.rescale[ty + r * kSide];
  store(sum, static_cast<T*>(pointers.o) + call.query(b, row0, h, call.Dv), int64_t{call.H} * call.Dv, call.Dv, rows);
}

template <class A, int Width>
struct BackwardMemory {
  typename Tiles<A, Width>::Wide q, k, v, dout;
  typename Tiles<A, Width>::Square p, ds;  // p with its dropout factors
};

// p and ds of a tile of queries and a tile of keys, whose q, k, v and do are in shared memory.
template <class T, int Width>
__device__ void probabilities(const Call& call, const Pointers& pointers, BackwardMemory<Accumulator<T>, Width>& m,
                              int b, int h, int row0, int k0, int keys) {
  using A = Accumulator<T>;
  using N = Tiles<A, Width>;
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  A s[N::kEach][N::kEach], dp[N::kEach][N::kEach];
  inner(s, m.q, m.k, call.D);
  inner(dp, m.dout, m.v, call.Dv);
#pragma unroll
  for (int r = 0; r < N::kEach; ++r) {
    int i = row0 + ty + r * kSide;
    bool inside = i < call.T;
    Seen mine = call.seen(keys, i);
    A lse = inside ? static_cast<const A*>(pointers.lse)[call.row(b, h, i)] : A(0);
    A delta = inside ? static_cast<const A*>(pointers.delta)[call.row(b, h, i)] : A(0);
#pragma unroll
    for (int c = 0; c < N::kEach; ++c) {
      int j = k0 + tx + c * kSide;
      A p = inside && mine.contains(j) ? exp2_of((s[r][c] * A(call.scale) - lse) * A(kLog2e)) : A(0);
      A factor = call.dropout > 0 ? A(call.factor(call.row(b, h, i), j)) : A(1);
      m.p[ty + r * kSide][tx + c * kSide] = p * factor;
      m.ds[ty + r * kSide][tx + c * kSide] = A(call.scale) * p * (dp[r][c] * factor - delta);
    }
  }
}

// A block per tile of keys; blockIdx.x = tile x (B Hkv) + key head. Walks the queries of its group of heads.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads) backward_keys_kernel(Call call, Pointers pointers) {
  using A = Accumulator<T>;
  using N = Tiles<A, Width>;
  extern __shared__ double shared_memory[];
  auto& m = *reinterpret_cast<BackwardMemory<A, Width>*>(shared_memory);
  int heads = call.B * call.Hkv, head = int(blockIdx.x) % heads, b = head / call.Hkv, g = head % call.Hkv;
  int k0 = int(blockIdx.x) / heads * N::kTile, left = min(N::kTile, call.S - k0), keys = call.keys(b);
  int64_t ldq = int64_t{call.H} * call.D, ldo = int64_t{call.H} * call.Dv, ldk = int64_t{call.Hkv} * call.D,
          ldv = int64_t{call.Hkv} * call.Dv;
  load(m.k, static_cast<const T*>(pointers.k) + call.key(b, k0, g, call.D), ldk, call.D, left);
  load(m.v, static_cast<const T*>(pointers.v) + call.key(b, k0, g, call.Dv), ldv, call.Dv, left);
  QueryRows see = call.rows_that_see(keys, k0, N::kTile);
  A dk[N::kEach][N::kColumns] = {}, dv[N::kEach][N::kColumns] = {};
  for (int h = g * call.group; h < (g + 1) * call.group; ++h)
    for (int row0 = see.begin / N::kTile * N::kTile; row0 < see.end; row0 += N::kTile) {
      int rows = call.T - row0;
      load(m.q, static_cast<const T*>(pointers.q) + call.query(b, row0, h, call.D), ldq, call.D, rows);
      load(m.dout, static_cast<const T*>(pointers.dout) + call.query(b, row0, h, call.Dv), ldo, call.Dv, rows);
      __syncthreads();
      probabilities<T, Width>(call, pointers, m, b, h, row0, k0, keys);
      __syncthreads();
      outer(dk, m.q, [&](int row, int key) { return m.ds[row][key]; });
      outer(dv, m.dout, [&](int row, int key) { return m.p[row][key]; });
      __syncthreads();
    }
  store(dk, static_cast<T*>(pointers.dk) + call.key(b, k0, g, call.D), ldk, call.D, left);
  store(dv, static_cast<T*>(pointers.dv) + call.key(b, k0, g, call.Dv), ldv, call.Dv, left);
}

// A block per tile of queries, the longest first; blockIdx.x as in forward.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads) backward_queries_kernel(Call call, Pointers pointers) {
  using A = Accumulator<T>;
  using N = Tiles<A, Width>;
  extern __shared__ double shared_memory[];
  auto& m = *reinterpret_cast<BackwardMemory<A, Width>*>(shared_memory);
  int heads = call.B * call.H, head = int(blockIdx.x) % heads, b = head / call.H, h = head % call.H, g = h / call.group;
  int row0 = ((call.T + N::kTile - 1) / N::kTile - 1 - int(blockIdx.x) / heads) * N::kTile;
  int rows = min(N::kTile, call.T - row0), keys = call.keys(b);
  int64_t ldq = int64_t{call.H} * call.D, ldo = int64_t{call.H} * call.Dv, ldk = int64_t{call.Hkv} * call.D,
          ldv = int64_t{call.Hkv} * call.Dv;
  load(m.q, static_cast<const T*>(pointers.q) + call.query(b, row0, h, call.D), ldq, call.D, rows);
  load(m.dout, static_cast<const T*>(pointers.dout) + call.query(b, row0, h, call.Dv), ldo, call.Dv, rows);
  A dq[N::kEach][N::kColumns] = {};
  KeyTiles tiles = call.seen_by_rows(keys, row0, N::kTile).tiles(N::kTile);
  for (int n = 0; n < tiles.count; ++n) {
    int k0 = tiles(n) * N::kTile, left = call.S - k0;
    load(m.k, static_cast<const T*>(pointers.k) + call.key(b, k0, g, call.D), ldk, call.D, left);
    load(m.v, static_cast<const T*>(pointers.v) + call.key(b, k0, g, call.Dv), ldv, call.Dv, left);
    __syncthreads();
    probabilities<T, Width>(call, pointers, m, b, h, row0, k0, keys);
    __syncthreads();
    outer(dq, m.k, [&](int j, int row) { return m.ds[row][j]; });
    __syncthreads();
  }
  store(dq, static_cast<T*>(pointers.dq) + call.query(b, row0, h, call.D), ldq, call.D, rows);
}

// Calls f.operator()<T, Width>() for the element type and the widest head.
template <class F>
void choose(const Call& call, DType dtype, F f) {
  int width = max(call.D, call.Dv);
  if (width > 256)
    throw Error({.where = "fused_attention",
                 .expected = "heads of at most 256 channels on CUDA",
                 .got = std::to_string(width),
                 .remedy = "use naive attention"});
  auto by_width = [&]<class T>() {
    width <= 64    ? f.template operator()<T, 64>()
    : width <= 128 ? f.template operator()<T, 128>()
                   : f.template operator()<T, 256>();
  };
  dtype == DType::f64    ? by_width.template operator()<double>()
  : dtype == DType::f32  ? by_width.template operator()<float>()
  : dtype == DType::bf16 ? by_width.template operator()<bf16>()
                         : by_width.template operator()<f16>();
}

}  // namespace

void plain_forward(const Call& call, const Pointers& p, DType dtype, Device device) {
  choose(call, dtype, [&]<class T, int Width>() {
    using A = Accumulator<T>;
    launch_shared(forward_kernel<T, Width>, device,
                  tile_grid(ceil_div(call.T, Tiles<A, Width>::kTile), int64_t{call.B} * call.H), kThreads,
                  sizeof(ForwardMemory<A, Width>), call, p);
  });
}

void plain_backward(const Call& call, const Pointers& p, DType dtype, Device device) {
  choose(call, dtype, [&]<class T, int Width>() {
    using A = Accumulator<T>;
    constexpr int kTile = Tiles<A, Width>::kTile;
    constexpr size_t kShared = sizeof(BackwardMemory<A, Width>);
    launch_shared(backward_keys_kernel<T, Width>, device,
                  tile_grid(ceil_div(call.S, kTile), int64_t{call.B} * call.Hkv), kThreads, kShared, call, p);
    launch_shared(backward_queries_kernel<T, Width>, device,
                  tile_grid(ceil_div(call.T, kTile), int64_t{call.B} * call.H), kThreads, kShared, call, p);
  });
}

}  // namespace basis::ops::fused
