// Y = repeat_heads(X[:, S]) + X[:, R] C on Hopper: warp-specialised, persistent, wgmma fed by bulk tensor copies.
//
// A block owns tiles of 128 x 256 of Y. One thread copies, two warpgroups multiply (64 x 256 each, f32 accumulators in
// registers). Two blocks of a cluster work on the same columns, each fetching half of C's tile for both.
// What keeps the tensor cores busy although the reduction is short (6 steps of 64 at d = 512):
// - the second warpgroup runs `skew` steps behind the first, so that each one's epilogue hides behind the other's
//   products: both share every tile of C, unlike in the usual ping-pong, so shared memory is filled half as often;
// - a thread fetches its share of the slice X[:, S] while it multiplies, and its accumulators start as the slice: the
//   epilogue only rounds and stores. What it costs counts: while the other warpgroup multiplies, its accumulators take
//   most of the register file's bandwidth;
// - C's rows are permuted within groups of 32 on their way to shared memory (by the tensor map: column 8q + 2j + e of Y
//   goes to row 8j + 2q + e), so that a thread's accumulators are 8 adjacent columns: stores are 16 bytes wide and need
//   no staging.
#pragma once

#include <algorithm>

#include "core/cuda/convert.cuh"
#include "core/cuda/hopper.cuh"
#include "core/cuda/wgmma.cuh"

namespace basis::ops::bd {

using namespace core;
using namespace core::hopper;

constexpr int kTileM = 128, kTileN = 256, kTileK = 64;
constexpr int kTileA = kTileM * kTileK * 2, kTileB = kTileN * kTileK * 2;  // bytes
constexpr int kPingTileA = 64 * kTileK * 2;                                // rows of one warpgroup
constexpr int kSharedBytes = 227 * 1024;
constexpr int kMaxSlots = 8;

// bd_forward_pingpong.cuh: the numbers of steps (k_tiles) that it takes, and how many tiles of X are in flight then: as
// many as fit that divide the steps of two tiles.
constexpr bool takes_turns(int k_tiles) { return k_tiles >= 3 && k_tiles <= 6; }
constexpr int ping_slots(int steps) {
  int slots = std::min((kSharedBytes - 2048 - kTileB * steps) / kPingTileA, kMaxSlots);
  while (2 * steps % slots) --slots;
  return slots;
}

// Tuning choices; `plan_forward` makes them.
struct ForwardPlan {
  int stages = 4;         // tiles in flight
  int skew = 1;           // steps of the second warpgroup behind the first; 0: none
  bool pingpong = false;  // the kernel of bd_forward_pingpong.cuh, where takes_turns(k_tiles); the others do not count
};

struct ForwardArgs {
  CUtensorMap x, c;   // X[:, R] [M, K]; C^T [N, K] as five axes
  const void* slice;  // X[:, S]: first element, row stride d
  void* y;            // [M, N]
  int m, n, d, k_tiles, row_pairs, column_tiles;
  int row_tiles;  // of the ping-pong kernel, 64 rows each
  ForwardPlan plan;
};

template <class T>
__device__ __forceinline__ void unpack(uint32_t packed, float& low, float& high) {
  if constexpr (std::is_same_v<T, bf16>) {
    // Not __uint_as_float: accumulators that begin as integers are moved between register classes at every product.
    asm("mov.b32 %0, %1;" : "=f"(low) : "r"(packed << 16));
    asm("mov.b32 %0, %1;" : "=f"(high) : "r"(packed & 0xffff0000));
  } else {
    low = __half2float(__ushort_as_half(uint16_t(packed)));
    high = __half2float(__ushort_as_half(uint16_t(packed >> 16)));
  }
}
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t packed;
  if constexpr (std::is_same_v<T, bf16>)
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(packed) : "f"(low), "f"(high));
  else
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(packed) : "f"(low), "f"(high));
  return packed;
}

// A cluster's tiles, over row_pairs x column_tiles (columns fastest): every so-manieth.
struct Tiles {
  int begin, end, step;
  __device__ __forceinline__ explicit Tiles(const ForwardArgs& args)
      : begin(int(blockIdx.x / 2)), end(args.row_pairs * args.column_tiles), step(int(gridDim.x / 2)) {}
};

// The copying thread: A's tiles, half of every tile of B for both blocks of the cluster.
__device__ __forceinline__ void forward_copies(const ForwardArgs& args, uint32_t a, uint32_t b, uint32_t full,
                                               uint32_t empty) {
  Tiles tiles(args);
  int rank = cluster_rank(), slot = 0;
  uint32_t phase = 1;
  for (int tile = tiles.begin; tile < tiles.end; tile += tiles.step) {
    int pair = tile / args.column_tiles, column = tile % args.column_tiles;
    for (int k = 0; k < args.k_tiles; ++k) {
      wait(empty + 8 * slot, phase);
      arrive_expect(full + 8 * slot, kTileB + kTileA);
      copy_2d(a + kTileA * slot, &args.x, full + 8 * slot, k * kTileK, (2 * pair + rank) * kTileM);
      copy_5d(b + kTileB * slot + kTileB / 2 * rank, &args.c, full + 8 * slot, k * kTileK,
              column * (kTileN / 32) + kTileN / 64 * rank, 3);
      if (++slot == args.plan.stages) slot = 0, phase ^= 1;
    }
  }
}

// A warp gives back a slot to both blocks that fill it.
__device__ __forceinline__ void release(uint32_t bar) {
  if (threadIdx.x % 32 < 2) arrive_remote(bar, threadIdx.x % 32);
}

// Accumulators: 16 g + 4 j + 2 h + e is row 8h, column 32 g + 8 quad + 2 j + e of the thread's corner of the tile.
template <class T, int Groups>
__device__ __forceinline__ void start_from(float (&acc)[kTileN / 2], const uint4 (&slice)[Groups][2]) {
#pragma unroll
  for (int g = 0; g < kTileN / 32; ++g)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint4& part = slice[g % Groups][h];
      float* to = acc + 16 * g + 2 * h;
      unpack<T>(part.x, to[0], to[1]), unpack<T>(part.y, to[4], to[5]);
      unpack<T>(part.z, to[8], to[9]), unpack<T>(part.w, to[12], to[13]);
    }
}

// Rounds and stores the thread's 2 x 64 elements at `y`; rows 8 apart, `rows` and `columns` of them lie inside.
template <class T, bool Inside>
__device__ __forceinline__ void store(const float (&acc)[kTileN / 2], T* y, int n, int rows, int columns) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (!Inside && 8 * h >= rows) return;
    T* to = y + (h ? 8 * int64_t(n) : 0);
#pragma unroll
    for (int g = 0; g < kTileN / 32; ++g) {
      const float* from = acc + 16 * g + 2 * h;
      uint4 v = make_uint4(pack<T>(from[0], from[1]), pack<T>(from[4], from[5]), pack<T>(from[8], from[9]),
                           pack<T>(from[12], from[13]));
      if (Inside || 32 * g < columns) __stcs(reinterpret_cast<uint4*>(to + 32 * g), v);
    }
  }
}

// The thread's share of the slice from row `row`; stays as it was for rows outside X.
template <class T, int Groups>
__device__ __forceinline__ void load_slice(uint4 (&slice)[Groups][2], const ForwardArgs& args, int row) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (row + 8 * h >= args.m) continue;
    const T* from = static_cast<const T*>(args.slice) + int64_t(row + 8 * h) * args.d + threadIdx.x % 4 * 8;
#pragma unroll
    for (int g = 0; g < Groups; ++g) slice[g][h] = *reinterpret_cast<const uint4*>(from + 32 * g);
  }
}

// One warpgroup: its 64 rows of every tile. Groups = dh / 32: how many groups of 32 columns until the slice repeats.
template <class T, int Groups>
__device__ __forceinline__ void forward_products(const ForwardArgs& args, int group, uint32_t a, uint32_t b,
                                                 uint32_t full, uint32_t empty) {
  const ForwardPlan& plan = args.plan;
  Tiles tiles(args);
  int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, quad = lane % 4, slot = 0;
  uint32_t phase = 0;
  uint4 slice[Groups][2] = {};
  float acc[kTileN / 2];
  T* y = static_cast<T*>(args.y);
  auto row_of = [&](int tile) {
    return (2 * (tile / args.column_tiles) + int(cluster_rank())) * kTileM + 64 * group + 16 * warp + lane / 4;
  };
  if (tiles.begin < tiles.end) load_slice<T>(slice, args, row_of(tiles.begin));
  for (int tile = tiles.begin; tile < tiles.end; tile += tiles.step) {
    int row = row_of(tile), next = tile + tiles.step;
    start_from<T>(acc, slice);
    if (next < tiles.end) load_slice<T>(slice, args, row_of(next));
    if (group == 1 && plan.skew) named_sync(1, 256);
    for (int k = 0; k < args.k_tiles; ++k) {
      wait(full + 8 * slot, phase);
      uint64_t x = operand(a + kTileA * slot + kTileA / 2 * group, 16, 1024), c = operand(b + kTileB * slot, 16, 1024);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kTileK / 16; ++i) wgmma<T, kTileN, 0>(acc, x + 2 * i, c + 2 * i, true);
      wgmma_commit();
      if (group == 0 && k + 1 == plan.skew) named_arrive(1, 256);
      if (k > 0) {  // the step before has finished: its tiles are free
        wgmma_wait<1>();
        release(empty + 8 * (slot ? slot - 1 : plan.stages - 1));
      }
      if (++slot == plan.stages) slot = 0, phase ^= 1;
    }
    wgmma_wait<0>();
    release(empty + 8 * (slot ? slot - 1 : plan.stages - 1));
    int first = tile % args.column_tiles * kTileN, top = row - lane / 4;
    T* to = y + int64_t(row) * args.n + first + 8 * quad;
    if (top + 16 <= args.m && first + kTileN <= args.n)
      store<T, true>(acc, to, args.n, 16, kTileN);
    else
      store<T, false>(acc, to, args.n, args.m - row, args.n - first - 8 * quad);
  }
}

template <class T, int Groups>
__global__ void __cluster_dims__(2) __launch_bounds__(384, 1) forward_kernel(const __grid_constant__ ForwardArgs args) {
  extern __shared__ uint8_t dynamic[];
  __shared__ uint64_t barriers[2][kMaxSlots];
  uint32_t a = (shared_address(dynamic) + 1023) / 1024 * 1024, b = a + kTileA * args.plan.stages;
  uint32_t full = shared_address(barriers[0]), empty = shared_address(barriers[1]);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kMaxSlots; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, 16);  // the consuming warps of both blocks
    }
    fence_barrier_init();
  }
  cluster_sync();
  int group = int(threadIdx.x / 128) - 1;
  if (group < 0) {
    give_registers<40>();
    if (threadIdx.x == 0) forward_copies(args, a, b, full, empty);
  } else {
    take_registers<232>();
    forward_products<T, Groups>(args, group, a, b, full, empty);
  }
  cluster_sync();  // no block may leave while its neighbour still copies or arrives here
}

// How the kernel should run for this problem; see the table in README.md.
inline ForwardPlan plan_forward(int k_tiles) {
  return {.stages = (kSharedBytes - 2048) / (kTileA + kTileB), .pingpong = takes_turns(k_tiles)};
}

// Whether the kernel takes this shape. Pointers must be multiples of 16 bytes.
inline bool forward_fits(int64_t m, int64_t n, int64_t d, int64_t dh) {
  return (dh == 32 || dh == 64 || dh == 128) && n % 32 == 0 && d % 8 == 0 && d > dh && m > 0 && m < (1 << 30) &&
         n < (1 << 30) && d < (1 << 30);
}

// x [m, d], c [n, d - dh] (C^T), y [m, n], all dense. The slice is the first dh channels, or the last.
template <class T>
void forward_hopper(const T* x, const T* c, T* y, int64_t m, int64_t n, int64_t d, int64_t dh, bool slice_in_front,
                    ForwardPlan plan, int multiprocessors, cudaStream_t stream) {
  constexpr bool is_bf16 = std::is_same_v<T, bf16>;
  uint64_t rows = m, columns = n, width = d, k = d - dh;
  ForwardArgs args{.slice = slice_in_front ? x : x + k, .y = y, .m = int(m), .n = int(n), .d = int(d), .plan = plan};
  args.x = tensor_map<2>(slice_in_front ? x + dh : x, is_bf16, {k, rows}, {1, width}, {kTileK, kTileM});
  args.c = tensor_map<5>(c, is_bf16, {k, 2, 4, 4, columns / 32}, {1, k, 8 * k, 2 * k, 32 * k},
                         {kTileK, 2, 4, 4, kTileN / 64});
  args.k_tiles = int((k + kTileK - 1) / kTileK);
  args.row_pairs = int((m + 2 * kTileM - 1) / (2 * kTileM));
  args.column_tiles = int((n + kTileN - 1) / kTileN);
  // The second warpgroup holds stages back: without enough steps, its barrier could be arrived at twice.
  args.plan.skew = args.k_tiles + plan.skew > plan.stages && plan.skew < plan.stages ? plan.skew : 0;
  auto kernel = dh == 32 ? forward_kernel<T, 1> : dh == 64 ? forward_kernel<T, 2> : forward_kernel<T, 4>;
  int shared = 1024 + (kTileA + kTileB) * plan.stages;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  int clusters = std::min<int64_t>(multiprocessors / 2, int64_t(args.row_pairs) * args.column_tiles);
  kernel<<<2 * clusters, 384, shared, stream>>>(args);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace basis::ops::bd
