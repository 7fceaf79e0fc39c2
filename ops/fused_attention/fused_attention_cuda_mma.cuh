// Warp-level matrix products on the tensor cores: mma.sync m16n8k16 with f32 accumulation over tiles of 16-bit elements
// in shared memory (PTX ISA, "Matrix fragments for mma.m16n8k16"; ldmatrix; cp.async).
//
// Of a 16 x 8 accumulator c, lane l holds (row, column) c[0], c[1]: (l/4, 2(l%4) + 0, 1) and c[2], c[3]: (l/4 + 8,
// same).
#pragma once

#include "ops/fused_attention/fused_attention_cuda_dropout.cuh"

namespace basis::ops::fused {

inline constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// A tile of rows of Width elements, each padded by 16 bytes: eight rows' 16-byte pieces then lie in different banks,
// which is what ldmatrix reads at a time.
template <int Rows, int Width>
struct alignas(16) Tile {
  static constexpr int kStride = Width + 8;  // elements
  uint16_t data[Rows * kStride];
};

using Fragment = uint32_t[4];

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_async_word(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 4 : 0));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;\n" ::); }
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;\n" ::: "memory"); }

// Rows [0, rows) of `from`, whose width is a multiple of 8; zeros in the rest of the tile.
template <int Threads, int Height, int Width, class T>
__device__ __forceinline__ void load_async(Tile<Height, Width>& tile, const Rows<T>& from, int rows) {
  constexpr int kPieces = Width / 8;
  uint32_t to = shared_address(tile.data);
#pragma unroll
  for (int n = 0; n < (Height * kPieces + Threads - 1) / Threads; ++n) {
    int e = int(threadIdx.x) + n * Threads;
    if (Height * kPieces % Threads && e >= Height * kPieces) break;
    int r = e / kPieces, c = e % kPieces * 8;
    bool valid = r < rows && c < from.width;
    copy_async(to + (r * Tile<Height, Width>::kStride + c) * 2, valid ? from.data + r * from.stride + c : from.data,
               valid);
  }
}

template <bool Transposed>
__device__ __forceinline__ void load_matrices(Fragment& f, uint32_t at) {
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(at)
                 : "memory");
}

// This lane's address for reading 16 x 16 blocks of a tile as: the left factor A[row][k], or a right factor B[k][n]
// stored by rows of k (transposed on the way); and as a right factor stored by rows of n.
template <int Stride>
__device__ __forceinline__ uint32_t by_rows(const void* tile, int row0) {
  int lane = threadIdx.x % 32;
  return shared_address(tile) + ((row0 + lane % 16) * Stride + lane / 16 * 8) * 2;
}
template <int Stride>
__device__ __forceinline__ uint32_t by_columns(const void* tile) {
  int lane = threadIdx.x % 32;
  return shared_address(tile) + ((lane / 16 * 8 + lane % 8) * Stride + lane / 8 % 2 * 8) * 2;
}

// c += a b for a 16 x 16 and b 16 x 8.
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t both;
  if constexpr (std::is_same_v<T, bf16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

template <int Tiles, int Blocks>
using Accumulators = float[Tiles][Blocks][4];

template <int M, int N>
__device__ __forceinline__ void clear(Accumulators<M, N>& c) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[m][n][e] = 0;
}

// c[m] = A B^T: A has 16 M rows at `a` (by_rows), B 8 N rows at `b` (by_columns), both Width long in tiles of `Stride`.
template <class T, int Width, int Stride, int M, int N>
__device__ __forceinline__ void multiply_transposed(Accumulators<M, N>& c, uint32_t a, uint32_t b) {
  clear(c);
#pragma unroll
  for (int k = 0; k < Width / 16; ++k) {
    Fragment left[M];
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrices<false>(left[m], a + (m * 16 * Stride + k * 16) * 2);
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      Fragment right;
      load_matrices<false>(right, b + (n * 16 * Stride + k * 16) * 2);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma<T>(c[m][2 * n], left[m], right[0], right[1]);
        mma<T>(c[m][2 * n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// c[m] += A B: A are accumulators of 8 K columns, rounded to T; B has 8 K rows, 8 N wide, at `b` (by_rows).
template <class T, int Stride, int M, int K, int N>
__device__ __forceinline__ void multiply_add(Accumulators<M, N>& c, const Accumulators<M, K>& a, uint32_t b) {
#pragma unroll
  for (int k = 0; k < K / 2; ++k) {
    Fragment left[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      left[m][0] = pack<T>(a[m][2 * k][0], a[m][2 * k][1]);
      left[m][1] = pack<T>(a[m][2 * k][2], a[m][2 * k][3]);
      left[m][2] = pack<T>(a[m][2 * k + 1][0], a[m][2 * k + 1][1]);
      left[m][3] = pack<T>(a[m][2 * k + 1][2], a[m][2 * k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      Fragment right;
      load_matrices<true>(right, b + (k * 16 * Stride + n * 16) * 2);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma<T>(c[m][2 * n], left[m], right[0], right[1]);
        mma<T>(c[m][2 * n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// Writes this warp's rows, times `scale[m][half]`, of which the first `rows` exist.
template <class T, int M, int N>
__device__ __forceinline__ void store_rows(const Accumulators<M, N>& c, const float (&scale)[M][2], const Rows<T>& to,
                                           int rows) {
  int lane = threadIdx.x % 32, column = lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int r = m * 16 + half * 8 + lane / 4;
      if (r >= rows) continue;
#pragma unroll
      for (int n = 0; n < N; ++n)
        if (n * 8 < to.width)
          *reinterpret_cast<uint32_t*>(to.data + r * to.stride + n * 8 + column) =
              pack<T>(c[m][n][half * 2] * scale[m][half], c[m][n][half * 2 + 1] * scale[m][half]);
    }
}

// Whether the tensor-core kernels take a call, and, if so, f.operator()<T, Width, Dropout>() for its element type,
// padded head size, and whether it drops.
template <class F>
bool choose_mma(const Call& call, const Pointers& p, DType dtype, F f) {
  auto aligned = [](const void* x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; };
  bool takes = (dtype == DType::bf16 || dtype == DType::f16) && call.D % 8 == 0 && call.Dv % 8 == 0 &&
               max(call.D, call.Dv) <= 256 && call.scale > 0;
  for (const void* x : {p.q, p.k, p.v, p.dout, static_cast<const void*>(p.o), static_cast<const void*>(p.dq),
                        static_cast<const void*>(p.dk), static_cast<const void*>(p.dv)})
    takes = takes && aligned(x);
  if (!takes) return false;
  auto with_width = [&]<class T, int Width>() {
    call.dropout > 0 ? f.template operator()<T, Width, true>() : f.template operator()<T, Width, false>();
  };
  int width = max(call.D, call.Dv);
  auto with_type = [&]<class T>() {
    width <= 32    ? with_width.template operator()<T, 32>()
    : width <= 64  ? with_width.template operator()<T, 64>()
    : width <= 96  ? with_width.template operator()<T, 96>()
    : width <= 128 ? with_width.template operator()<T, 128>()
                   : with_width.template operator()<T, 256>();
  };
  dtype == DType::bf16 ? with_type.template operator()<bf16>() : with_type.template operator()<f16>();
  return true;
}

}  // namespace basis::ops::fused
