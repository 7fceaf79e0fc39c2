// A product is two kernels: sums of x^T y over tiles, carried or built into a
// tree by a third, and for each tile of 64 rows their product with a plus the squares evaluated pair by pair; both run
// on 64-wide blocks in shared memory, and nothing larger than the sums is written between them.
#include "core/cuda/launch.cuh"
#include "ops/low_rank_attention/low_rank_attention.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 256, kTile = int(kMaskTile), kSide = 16;
constexpr int kStride = kTile + 4;  // of a block whose columns are read four at a time
constexpr int kWide = 80;           // columns of a block at most: 64 values and the mass in one

template <class A>
struct alignas(4 * sizeof(A) > 16 ? 16 : 4 * sizeof(A)) Four {
  A v[4];
};

// sum[r][c] += sum over k < depth of left[k][4 ty + r] right[k][tx + 16 c].
template <int Columns, class A>
__device__ __forceinline__ void multiply(const A* left, const A* right, int right_stride, int depth, int tx, int ty,
                                         A (&sum)[4][Columns]) {
#pragma unroll 8
  for (int k = 0; k < depth; ++k) {
    Four<A> a = *reinterpret_cast<const Four<A>*>(left + k * kStride + 4 * ty);
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
      A b = right[k * right_stride + tx + kSide * c];
#pragma unroll
      for (int r = 0; r < 4; ++r) sum[r][c] += a.v[r] * b;
    }
  }
}

// x^T y over a slot's positions, for 64 of x's columns and 16 Columns of y's.
template <int Columns, class A>
__global__ void __launch_bounds__(kThreads)
    outer_kernel(Visible v, const A* x, const A* y, int64_t r, int64_t m, int64_t y_width, A* states) {
  extern __shared__ __align__(16) char memory[];
  A *left = reinterpret_cast<A*>(memory), *right = left + kTile * kStride;
  constexpr int kColumns = kSide * Columns;
  bool lists = v.kind == Visible::Kind::lists, backward = v.transposed && v.kind == Visible::Kind::causal;
  int64_t c = blockIdx.x, z = blockIdx.y, blocks = (m + kColumns - 1) / kColumns;
  int64_t r0 = blockIdx.z / blocks * kTile, m0 = blockIdx.z % blocks * kColumns;
  int64_t stride = lists ? 1 : v.stride, slot = lists ? v.other + c : backward ? c : c + 1;
  int64_t first = c * stride, end = min(first + stride, v.other);
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  A sum[4][Columns] = {};
  for (int64_t t = first; t < end; ++t) {
    int64_t row = (z * v.other + t) * kTile;
    for (int e = threadIdx.x; e < kTile * kTile; e += kThreads) {
      int k = e / kTile, i = e % kTile;
      left[k * kStride + i] = r0 + i < r ? x[(row + k) * r + r0 + i] : A(0);
    }
    for (int e = threadIdx.x; e < kTile * kColumns; e += kThreads) {
      int k = e / kColumns, j = e % kColumns;
      right[k * kColumns + j] = m0 + j < m ? y[(row + k) * y_width + m0 + j] : A(0);
    }
    __syncthreads();
    multiply<Columns>(left, right, kColumns, kTile, tx, ty, sum);
    __syncthreads();
  }
  A* to = states + (z * v.slots() + slot) * r * m;
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < Columns; ++b) {
      int64_t i = r0 + 4 * ty + a, j = m0 + tx + kSide * b;
      if (i < r && j < m) to[i * m + j] = sum[a][b];
    }
}

// Running sums over the slots, a thread an element: slot 0 is 0 and c holds all before it; transposed the other way.
template <class A>
__global__ void carry_kernel(Visible v, int64_t size, int64_t n, A* states) {
  int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x, slots = v.slots();
  if (at >= n) return;
  bool backward = v.transposed && v.kind == Visible::Kind::causal;
  A* column = states + at / size * slots * size + at % size;
  auto place = [&](int64_t c) { return (backward ? slots - 1 - c : c) * size; };
  A sum = 0;
  column[place(0)] = 0;
  constexpr int kAhead = 16;  // loads under way before the first store that they might alias
  for (int64_t c = 1; c < slots; c += kAhead) {
    A next[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) next[i] = c + i < slots ? column[place(c + i)] : A(0);
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (c + i < slots) column[place(c + i)] = sum += next[i];
  }
}

// The nodes [first, last] of a tree, each the sum of its two children.
template <class A>
__global__ void tree_kernel(int64_t first, int64_t last, int64_t slots, int64_t size, int64_t n, A* states) {
  grid_stride(n, [&](int64_t at) {
    int64_t e = at % size, node = first + at / size % (last - first + 1), z = at / size / (last - first + 1);
    A* of = states + z * slots * size + e;
    of[node * size] = of[2 * node * size] + of[(2 * node + 1) * size];
  });
}

template <int Columns, class A>
__global__ void __launch_bounds__(kThreads)
    product_kernel(Visible v, const A* a, const A* x, const A* y, const A* states, int64_t r, int64_t m,
                   int64_t y_width, int64_t a_group, int64_t x_group, A* out) {
  extern __shared__ __align__(16) char memory[];
  A *left = reinterpret_cast<A*>(memory), *right = left + kTile * kStride;
  constexpr int kColumns = kSide * Columns;
  int64_t t = blockIdx.x, z = blockIdx.y, m0 = int64_t(blockIdx.z) * kColumns;
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  a += (z / a_group * v.tiles + t) * kTile * r;
  x += z / x_group * v.other * kTile * r, y += z / x_group * v.other * kTile * y_width;
  states += z / x_group * v.slots() * r * m;
  Span nodes = v.nodes(z, t), squares = v.squares(z, t);
  A sum[4][Columns] = {};
  auto load_left = [&](int64_t r0, int depth) {  // left[k][i] = a[i][r0 + k]
    for (int e = threadIdx.x; e < kTile * kTile; e += kThreads) {
      int i = e / kTile, k = e % kTile;
      if (k < depth) left[k * kStride + i] = a[i * r + r0 + k];
    }
  };
  for (int64_t r0 = 0; r0 < r && nodes.begin < nodes.end; r0 += kTile) {
    int depth = int(min(r - r0, int64_t(kTile)));
    load_left(r0, depth);
    for (int e = threadIdx.x; e < depth * kColumns; e += kThreads) {
      int k = e / kColumns, j = e % kColumns;
      A value = 0;
      for (int64_t n = nodes.begin; n < nodes.end && m0 + j < m; ++n)
        value += states[(v.node(n) * r + r0 + k) * m + m0 + j];
      right[k * kColumns + j] = value;
    }
    __syncthreads();
    multiply<Columns>(left, right, kColumns, depth, tx, ty, sum);
    __syncthreads();
  }
  for (int64_t s = squares.begin; s < squares.end; ++s) {
    int64_t other = v.tile(s) * kTile;
    A weight[4][4] = {};
    for (int64_t r0 = 0; r0 < r; r0 += kTile) {
      int depth = int(min(r - r0, int64_t(kTile)));
      load_left(r0, depth);
      for (int e = threadIdx.x; e < kTile * kTile; e += kThreads) {
        int j = e / kTile, k = e % kTile;
        if (k < depth) right[k * (kTile + 1) + j] = x[(other + j) * r + r0 + k];
      }
      __syncthreads();
      multiply<4>(left, right, kTile + 1, depth, tx, ty, weight);
      __syncthreads();
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      Four<A> column;
#pragma unroll
      for (int i = 0; i < 4; ++i) column.v[i] = v.sees(s, t, 4 * ty + i, tx + kSide * c) ? weight[i][c] : A(0);
      *reinterpret_cast<Four<A>*>(left + (tx + kSide * c) * kStride + 4 * ty) = column;
    }
    for (int e = threadIdx.x; e < kTile * kColumns; e += kThreads) {
      int k = e / kColumns, j = e % kColumns;
      right[k * kColumns + j] = m0 + j < m ? y[(other + k) * y_width + m0 + j] : A(0);
    }
    __syncthreads();
    multiply<Columns>(left, right, kColumns, kTile, tx, ty, sum);
    __syncthreads();
  }
  out += (z * v.tiles + t) * kTile * m;
  for (int i = 0; i < 4; ++i)
    for (int c = 0; c < Columns; ++c) {
      int64_t j = m0 + tx + kSide * c;
      if (j < m) out[(4 * ty + i) * m + j] = sum[i][c];
    }
}

template <int Columns, class A>
void product_of(const Visible& v, const Tensor& a, const Tensor& x, const Tensor& y, const Tensor& states,
                const Tensor& out) {
  Device device = a.device();
  int64_t r = a.size(2), m = out.size(2), heads = out.size(0), x_heads = x.size(0), slots = v.slots(), size = r * m;
  int64_t blocks = (m + kSide * Columns - 1) / (kSide * Columns), deep = (r + kTile - 1) / kTile;
  size_t shared = size_t(kTile * kStride + kTile * kWide) * sizeof(A);
  A* sums = states.data<A>();
  bool lists = v.kind == Visible::Kind::lists;
  launch_shared(outer_kernel<Columns, A>, device,
                dim3(unsigned(lists ? v.other : slots - 1), unsigned(x_heads), unsigned(blocks * deep)), kThreads,
                shared, v, x.data<A>(), y.data<A>(), r, m, y.size(2), sums);
  if (!lists) {
    int64_t n = x_heads * size;
    launch(carry_kernel<A>, device, (n + kThreads - 1) / kThreads, kThreads, v, size, n, sums);
  } else {
    int64_t low = 1;
    while (2 * low < v.other) low *= 2;
    for (; low >= 1; low /= 2) {  // children first
      int64_t last = std::min(2 * low, v.other) - 1, n = x_heads * size * (last - low + 1);
      if (last < low) continue;
      launch(tree_kernel<A>, device, grid_for(n, kThreads), kThreads, low, last, slots, size, n, sums);
    }
  }
  launch_shared(product_kernel<Columns, A>, device, dim3(unsigned(v.tiles), unsigned(heads), unsigned(blocks)),
                kThreads, shared, v, a.data<A>(), x.data<A>(), y.data<A>(), sums, r, m, y.size(2), heads / a.size(0),
                heads / x_heads, out.data<A>());
}

template <class A>
void product(const Visible& v, const Tensor& a, const Tensor& x, const Tensor& y, const Tensor& states,
             const Tensor& out) {
  int64_t m = out.size(2);
  bool odd = m > kTile && m % kTile > 0 && m % kTile <= kSide;
  (odd ? product_of<5, A> : product_of<4, A>)(v, a, x, y, states, out);
}

REGISTER_KERNEL(low_rank_product, cuda, f32, product<float>)
REGISTER_KERNEL(low_rank_product, cuda, f64, product<double>)

}  // namespace
}  // namespace basis::ops
