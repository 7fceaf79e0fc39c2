// Warpgroup matrix products over tiles of attention heads, and the copies that bring the tiles; for sm_90a only.
//
// Tiles lie in shared memory as columns of 64 elements: [Width / 64][rows][64], with the 128-byte swizzle that the
// copies write and the products read. Each starts at a multiple of 1024 bytes.
#pragma once

#include "core/cuda/hopper.cuh"
#include "core/cuda/wgmma.cuh"
#include "ops/fused_attention/fused_attention_cuda_softmax.cuh"

namespace basis::ops::fused {

template <int Rows, int Width>
struct alignas(1024) SwizzledTile {
  static constexpr uint32_t kColumnBytes = Rows * 128, kBytes = Rows * Width * 2;
  uint16_t data[Rows * Width];
};

__device__ __forceinline__ void init_barrier(uint64_t& barrier, int count) {
  hopper::barrier_init(shared_address(&barrier), count);
}
__device__ __forceinline__ void arrive(uint64_t& barrier) { hopper::arrive(shared_address(&barrier)); }
// One arrival for the whole warp, after every lane's reads.
__device__ __forceinline__ void warp_arrive(uint64_t& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) arrive(barrier);
}
// Until the phase of this parity has ended.
__device__ __forceinline__ void wait(uint64_t& barrier, uint32_t parity) {
  hopper::wait(shared_address(&barrier), parity);
}

// Copies the tile of [B, rows, heads, Width] at (b, row, head), zeros beyond the tensor; arrives at the barrier.
template <int Rows, int Width>
__device__ __forceinline__ void load_tile(SwizzledTile<Rows, Width>& tile, const CUtensorMap& map, uint64_t& barrier,
                                          int head, int row, int b) {
  hopper::arrive_expect(shared_address(&barrier), SwizzledTile<Rows, Width>::kBytes);
#pragma unroll
  for (int column = 0; column < Width; column += 64)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
        "%5}], [%6];\n" ::"r"(shared_address(tile.data) + column / 64 * SwizzledTile<Rows, Width>::kColumnBytes),
        "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(head), "r"(row), "r"(b), "r"(shared_address(&barrier))
        : "memory");
}

// The registers of a product in flight are neither read nor moved across this point.
template <int N>
__device__ __forceinline__ void pin(Accumulators<1, N>& c) {
#pragma unroll
  for (int n = 0; n < N; ++n)
    asm volatile("" : "+f"(c[0][n][0]), "+f"(c[0][n][1]), "+f"(c[0][n][2]), "+f"(c[0][n][3])::"memory");
}
template <int K>
__device__ __forceinline__ void pin(uint32_t (&a)[K][4]) {
#pragma unroll
  for (int k = 0; k < K; ++k) asm volatile("" : "+r"(a[k][0]), "+r"(a[k][1]), "+r"(a[k][2]), "+r"(a[k][3])::"memory");
}

template <class T>
struct PtxName;
template <>
struct PtxName<bf16> {
  static constexpr char value[] = "bf16";
};
template <>
struct PtxName<f16> {
  static constexpr char value[] = "f16";
};

// c (+)= A B^T for A [64, 16] and B [128, 16] in shared memory. `add`: 0 overwrites c.
template <class T>
__device__ __forceinline__ void product(float (&c)[1][16][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.%67.%67 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "
      "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n}\n"
      : "+f"(c[0][0][0]), "+f"(c[0][0][1]), "+f"(c[0][0][2]), "+f"(c[0][0][3]), "+f"(c[0][1][0]), "+f"(c[0][1][1]),
        "+f"(c[0][1][2]), "+f"(c[0][1][3]), "+f"(c[0][2][0]), "+f"(c[0][2][1]), "+f"(c[0][2][2]), "+f"(c[0][2][3]),
        "+f"(c[0][3][0]), "+f"(c[0][3][1]), "+f"(c[0][3][2]), "+f"(c[0][3][3]), "+f"(c[0][4][0]), "+f"(c[0][4][1]),
        "+f"(c[0][4][2]), "+f"(c[0][4][3]), "+f"(c[0][5][0]), "+f"(c[0][5][1]), "+f"(c[0][5][2]), "+f"(c[0][5][3]),
        "+f"(c[0][6][0]), "+f"(c[0][6][1]), "+f"(c[0][6][2]), "+f"(c[0][6][3]), "+f"(c[0][7][0]), "+f"(c[0][7][1]),
        "+f"(c[0][7][2]), "+f"(c[0][7][3]), "+f"(c[0][8][0]), "+f"(c[0][8][1]), "+f"(c[0][8][2]), "+f"(c[0][8][3]),
        "+f"(c[0][9][0]), "+f"(c[0][9][1]), "+f"(c[0][9][2]), "+f"(c[0][9][3]), "+f"(c[0][10][0]), "+f"(c[0][10][1]),
        "+f"(c[0][10][2]), "+f"(c[0][10][3]), "+f"(c[0][11][0]), "+f"(c[0][11][1]), "+f"(c[0][11][2]),
        "+f"(c[0][11][3]), "+f"(c[0][12][0]), "+f"(c[0][12][1]), "+f"(c[0][12][2]), "+f"(c[0][12][3]),
        "+f"(c[0][13][0]), "+f"(c[0][13][1]), "+f"(c[0][13][2]), "+f"(c[0][13][3]), "+f"(c[0][14][0]),
        "+f"(c[0][14][1]), "+f"(c[0][14][2]), "+f"(c[0][14][3]), "+f"(c[0][15][0]), "+f"(c[0][15][1]),
        "+f"(c[0][15][2]), "+f"(c[0][15][3])
      : "l"(a), "l"(b), "r"(add), "C"(PtxName<T>::value));
}
// The same for B [64, 16].
template <class T>
__device__ __forceinline__ void product(float (&c)[1][8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.%35.%35 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;\n}\n"
      : "+f"(c[0][0][0]), "+f"(c[0][0][1]), "+f"(c[0][0][2]), "+f"(c[0][0][3]), "+f"(c[0][1][0]), "+f"(c[0][1][1]),
        "+f"(c[0][1][2]), "+f"(c[0][1][3]), "+f"(c[0][2][0]), "+f"(c[0][2][1]), "+f"(c[0][2][2]), "+f"(c[0][2][3]),
        "+f"(c[0][3][0]), "+f"(c[0][3][1]), "+f"(c[0][3][2]), "+f"(c[0][3][3]), "+f"(c[0][4][0]), "+f"(c[0][4][1]),
        "+f"(c[0][4][2]), "+f"(c[0][4][3]), "+f"(c[0][5][0]), "+f"(c[0][5][1]), "+f"(c[0][5][2]), "+f"(c[0][5][3]),
        "+f"(c[0][6][0]), "+f"(c[0][6][1]), "+f"(c[0][6][2]), "+f"(c[0][6][3]), "+f"(c[0][7][0]), "+f"(c[0][7][1]),
        "+f"(c[0][7][2]), "+f"(c[0][7][3])
      : "l"(a), "l"(b), "r"(add), "C"(PtxName<T>::value));
}
// c += A B for A [64, 16] in registers and B [16, 128] in shared memory.
template <class T>
__device__ __forceinline__ void product(float (&c)[1][16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.%69.%69 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "
      "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      : "+f"(c[0][0][0]), "+f"(c[0][0][1]), "+f"(c[0][0][2]), "+f"(c[0][0][3]), "+f"(c[0][1][0]), "+f"(c[0][1][1]),
        "+f"(c[0][1][2]), "+f"(c[0][1][3]), "+f"(c[0][2][0]), "+f"(c[0][2][1]), "+f"(c[0][2][2]), "+f"(c[0][2][3]),
        "+f"(c[0][3][0]), "+f"(c[0][3][1]), "+f"(c[0][3][2]), "+f"(c[0][3][3]), "+f"(c[0][4][0]), "+f"(c[0][4][1]),
        "+f"(c[0][4][2]), "+f"(c[0][4][3]), "+f"(c[0][5][0]), "+f"(c[0][5][1]), "+f"(c[0][5][2]), "+f"(c[0][5][3]),
        "+f"(c[0][6][0]), "+f"(c[0][6][1]), "+f"(c[0][6][2]), "+f"(c[0][6][3]), "+f"(c[0][7][0]), "+f"(c[0][7][1]),
        "+f"(c[0][7][2]), "+f"(c[0][7][3]), "+f"(c[0][8][0]), "+f"(c[0][8][1]), "+f"(c[0][8][2]), "+f"(c[0][8][3]),
        "+f"(c[0][9][0]), "+f"(c[0][9][1]), "+f"(c[0][9][2]), "+f"(c[0][9][3]), "+f"(c[0][10][0]), "+f"(c[0][10][1]),
        "+f"(c[0][10][2]), "+f"(c[0][10][3]), "+f"(c[0][11][0]), "+f"(c[0][11][1]), "+f"(c[0][11][2]),
        "+f"(c[0][11][3]), "+f"(c[0][12][0]), "+f"(c[0][12][1]), "+f"(c[0][12][2]), "+f"(c[0][12][3]),
        "+f"(c[0][13][0]), "+f"(c[0][13][1]), "+f"(c[0][13][2]), "+f"(c[0][13][3]), "+f"(c[0][14][0]),
        "+f"(c[0][14][1]), "+f"(c[0][14][2]), "+f"(c[0][14][3]), "+f"(c[0][15][0]), "+f"(c[0][15][1]),
        "+f"(c[0][15][2]), "+f"(c[0][15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "C"(PtxName<T>::value));
}
// The same for B [16, 64].
template <class T>
__device__ __forceinline__ void product(float (&c)[1][8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.%37.%37 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(c[0][0][0]), "+f"(c[0][0][1]), "+f"(c[0][0][2]), "+f"(c[0][0][3]), "+f"(c[0][1][0]), "+f"(c[0][1][1]),
        "+f"(c[0][1][2]), "+f"(c[0][1][3]), "+f"(c[0][2][0]), "+f"(c[0][2][1]), "+f"(c[0][2][2]), "+f"(c[0][2][3]),
        "+f"(c[0][3][0]), "+f"(c[0][3][1]), "+f"(c[0][3][2]), "+f"(c[0][3][3]), "+f"(c[0][4][0]), "+f"(c[0][4][1]),
        "+f"(c[0][4][2]), "+f"(c[0][4][3]), "+f"(c[0][5][0]), "+f"(c[0][5][1]), "+f"(c[0][5][2]), "+f"(c[0][5][3]),
        "+f"(c[0][6][0]), "+f"(c[0][6][1]), "+f"(c[0][6][2]), "+f"(c[0][6][3]), "+f"(c[0][7][0]), "+f"(c[0][7][1]),
        "+f"(c[0][7][2]), "+f"(c[0][7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "C"(PtxName<T>::value));
}

// c = A B^T, started: A are 64 rows of a tile from `row` on.
template <class T, int Width, int Rows, int N>
__device__ __forceinline__ void start_transposed(Accumulators<1, N / 8>& c, const SwizzledTile<Rows, Width>& a, int row,
                                                 const SwizzledTile<N, Width>& b) {
  uint32_t a_at = shared_address(a.data) + row * 128, b_at = shared_address(b.data);
  pin(c);
  hopper::wgmma_fence();
#pragma unroll
  for (int d = 0; d < Width; d += 16)
    product<T>(c, hopper::operand(a_at + d / 64 * a.kColumnBytes + d % 64 * 2, 16, 1024),
               hopper::operand(b_at + d / 64 * b.kColumnBytes + d % 64 * 2, 16, 1024), d > 0);
  hopper::wgmma_commit();
  pin(c);
}

// c += A B, started: A in registers.
template <class T, int Width, int K>
__device__ __forceinline__ void start_product(Accumulators<1, Width / 8>& c, uint32_t (&a)[K / 16][4],
                                              const SwizzledTile<K, Width>& b) {
  uint32_t b_at = shared_address(b.data);
  pin(c), pin(a);
  hopper::wgmma_fence();
#pragma unroll
  for (int k = 0; k < K / 16; ++k) product<T>(c, a[k], hopper::operand(b_at + k * 16 * 128, b.kColumnBytes, 1024));
  hopper::wgmma_commit();
  pin(c), pin(a);
}

// Accumulators as the left factor of a product.
template <class T, int N>
__device__ __forceinline__ void round_to(uint32_t (&p)[N / 2][4], const Accumulators<1, N>& s) {
#pragma unroll
  for (int k = 0; k < N / 2; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) p[k][e] = pack<T>(s[0][2 * k + e / 2][e % 2 * 2], s[0][2 * k + e / 2][e % 2 * 2 + 1]);
}

// A [B, rows, heads, D] tensor for copies of `tile` rows of one head, 64 columns at a time.
inline CUtensorMap tensor_map(const void* data, DType dtype, int b, int rows, int heads, int d, int tile) {
  auto n = [](int64_t x) { return uint64_t(x); };
  return hopper::tensor_map<4>(data, dtype == DType::bf16, {n(d), n(heads), n(rows), n(b)},
                               {1, n(d), n(int64_t{heads} * d), n(int64_t{rows} * heads * d)},
                               {64, 1, uint32_t(tile), 1});
}

inline bool is_hopper(Device device) {
  int major = 0, minor = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index));
  return major == 9 && minor == 0;
}

}  // namespace basis::ops::fused
