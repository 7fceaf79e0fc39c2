// The BD projection's forward where 256 columns of C fit in shared memory (128 < d - dh <= 384): ping-pong.
//
// A block keeps 256 columns of C and walks down the rows. Its two warpgroups take tiles of 64 x 256 of Y in turns: one
// multiplies alone, the other rounds, stores and begins its next tile with the slice. So an epilogue may take as long
// as the products of a tile (3072 cycles at d - dh = 384); in the kernel whose warpgroups share tiles of C
// (bd_forward_hopper.cuh) it must end within `skew` steps. Only X streams, 16 bytes a cycle, so no cluster is needed
// and no block waits for another.
#pragma once

#include "ops/bd_linear/bd_forward_hopper.cuh"

namespace basis::ops::bd {

constexpr int kHandOver = 1;  // steps before its end at which a tile lets the other warpgroup begin

// A block's tiles: a run in the order rows (fastest), columns. Those of one column, a slab, share C's columns.
struct Walk {
  const ForwardArgs& args;
  int begin, end;                   // tiles of the block
  int tile, row, column, slab = 0;  // row and column in tiles; slab counted from the block's first

  __device__ __forceinline__ explicit Walk(const ForwardArgs& a) : args(a) {
    int64_t tiles = int64_t(a.row_tiles) * a.column_tiles;
    begin = int(tiles * blockIdx.x / gridDim.x), end = int(tiles * (blockIdx.x + 1) / gridDim.x);
    tile = begin, row = begin % a.row_tiles, column = begin / a.row_tiles;
  }
  __device__ __forceinline__ void advance(int tiles) {
    tile += tiles;
    for (row += tiles; row >= args.row_tiles; row -= args.row_tiles) ++column, ++slab;
  }
  __device__ __forceinline__ int slab_begin() const { return max(begin, tile - row); }
  __device__ __forceinline__ int slab_end() const { return min(end, tile - row + args.row_tiles); }
};

template <int Steps>
__device__ __forceinline__ void pingpong_copies(const ForwardArgs& args, uint32_t a, uint32_t c, uint32_t full,
                                                uint32_t empty, uint32_t c_full, uint32_t c_empty) {
  int slot = 0;
  uint32_t phase = 1;
  CachePolicy keep = keep_in_l2();
  for (Walk at(args); at.tile < at.end; at.advance(1)) {
    bool new_slab = at.tile == at.slab_begin();
    for (int k = 0; k < Steps; ++k) {
      wait(empty + 8 * slot, phase);
      arrive_expect(full + 8 * slot, kPingTileA);
      copy_2d(a + kPingTileA * slot, &args.x, full + 8 * slot, k * kTileK, 64 * at.row, keep);
      if (new_slab) {
        wait(c_empty + 8 * k, (at.slab & 1) ^ 1);
        arrive_expect(c_full + 8 * k, kTileB);
        copy_5d(c + kTileB * k, &args.c, c_full + 8 * k, k * kTileK, at.column * (kTileN / 32));
      }
      if (++slot == ping_slots(Steps)) slot = 0, phase ^= 1;
    }
  }
}

// Steps = k_tiles, known to the compiler: between two steps the tensor cores have 512 cycles of work, and slots counted
// at run time take about as long.
template <class T, int Groups, int Steps, int Group>
__device__ __forceinline__ void pingpong_products(const ForwardArgs& args, uint32_t a, uint32_t c, uint32_t full,
                                                  uint32_t empty, uint32_t c_full, uint32_t c_empty) {
  constexpr int kSlots = ping_slots(Steps);
  int lane = threadIdx.x % 32, corner = threadIdx.x % 128 / 32 * 16 + lane / 4, quad = lane % 4;
  Walk at(args), next(args);
  at.advance(Group), next.advance(Group + 2);
  uint32_t parity = 0;  // of the warpgroup's first use of slot 0
  uint4 slice[Groups][2] = {};
  float acc[kTileN / 2];
  if (at.tile < at.end) load_slice<T>(slice, args, 64 * at.row + corner);
  for (; at.tile < at.end; at.advance(2), next.advance(2), parity ^= 2 * Steps / kSlots & 1) {
    start_from<T>(acc, slice);
    if (next.tile < next.end) load_slice<T>(slice, args, 64 * next.row + corner);
    // The warpgroup's first and last tile of this slab; where it is the block's only one, it speaks for both.
    bool first = at.tile - 2 < at.slab_begin(), last = at.tile + 2 >= at.slab_end();
    bool only = at.slab_begin() + 1 == at.slab_end();
    auto give_back = [&](int k) {
      if (lane == 0) arrive(empty + 8 * ((Steps * Group + k) % kSlots));
      if (last && lane < (only ? 2 : 1)) arrive(c_empty + 8 * k);
    };
#pragma unroll
    for (float& x : acc) asm volatile("" : "+f"(x));  // they start now, not within the products
    if (at.tile > at.begin) named_sync(1 + Group, 256);
#pragma unroll
    for (int k = 0; k < Steps; ++k) {
      constexpr int kBefore = Steps * Group;  // steps of the tile before this one
      if (first) wait(c_full + 8 * k, at.slab & 1);
      wait(full + 8 * ((kBefore + k) % kSlots), parity ^ ((kBefore + k) / kSlots & 1));
      if (k == Steps - kHandOver && at.tile + 1 < at.end) named_arrive(2 - Group, 256);
      uint64_t x = operand(a + kPingTileA * ((kBefore + k) % kSlots), 16, 1024), w = operand(c + kTileB * k, 16, 1024);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kTileK / 16; ++i) wgmma<T, kTileN, 0>(acc, x + 2 * i, w + 2 * i, true);
      wgmma_commit();
      if (k > 0) {  // the step before has finished
        wgmma_wait<1>();
        give_back(k - 1);
      }
    }
    wgmma_wait<0>();
    give_back(Steps - 1);
    int row = 64 * at.row + corner, column = at.column * kTileN;
    T* to = static_cast<T*>(args.y) + int64_t(row) * args.n + column + 8 * quad;
    if (row - lane / 4 + 16 <= args.m && column + kTileN <= args.n)
      store<T, true>(acc, to, args.n, 16, kTileN);
    else
      store<T, false>(acc, to, args.n, args.m - row, args.n - column - 8 * quad);
  }
}

template <class T, int Groups, int Steps>
__global__ void __launch_bounds__(384, 1) pingpong_kernel(const __grid_constant__ ForwardArgs args) {
  extern __shared__ uint8_t dynamic[];
  __shared__ uint64_t barriers[4][kMaxSlots];
  uint32_t c = (shared_address(dynamic) + 1023) / 1024 * 1024, a = c + kTileB * Steps;
  uint32_t full = shared_address(barriers[0]), empty = shared_address(barriers[1]);
  uint32_t c_full = shared_address(barriers[2]), c_empty = shared_address(barriers[3]);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kMaxSlots; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, 4);  // the warps of one warpgroup
      barrier_init(c_full + 8 * i, 1);
      barrier_init(c_empty + 8 * i, 8);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x == 0) pingpong_copies<Steps>(args, a, c, full, empty, c_full, c_empty);
  } else if (threadIdx.x < 256) {
    take_registers<232>();
    pingpong_products<T, Groups, Steps, 0>(args, a, c, full, empty, c_full, c_empty);
  } else {
    take_registers<232>();
    pingpong_products<T, Groups, Steps, 1>(args, a, c, full, empty, c_full, c_empty);
  }
}

// Where that leaves few multiprocessors idle, as many blocks as give each column the same number of them: they walk
// down together, so that whole rows of Y are written at about the same time and X comes from the L2 cache.
inline unsigned ping_blocks(int row_tiles, int column_tiles, int multiprocessors) {
  int64_t even = multiprocessors / column_tiles * column_tiles;
  int64_t blocks = even >= 0.95 * multiprocessors && row_tiles >= even / column_tiles ? even : multiprocessors;
  return unsigned(std::min(blocks, int64_t(row_tiles) * column_tiles));
}

// As forward_hopper, by either kernel.
template <class T>
void forward_planned(const T* x, const T* c, T* y, int64_t m, int64_t n, int64_t d, int64_t dh, bool slice_in_front,
                     ForwardPlan plan, int multiprocessors, cudaStream_t stream) {
  if (!plan.pingpong) return forward_hopper<T>(x, c, y, m, n, d, dh, slice_in_front, plan, multiprocessors, stream);
  constexpr bool is_bf16 = std::is_same_v<T, bf16>;
  uint64_t rows = m, columns = n, width = d, k = d - dh;
  ForwardArgs args{.slice = slice_in_front ? x : x + k, .y = y, .m = int(m), .n = int(n), .d = int(d), .plan = plan};
  args.x = tensor_map<2>(slice_in_front ? x + dh : x, is_bf16, {k, rows}, {1, width}, {kTileK, 64});
  args.c = tensor_map<5>(c, is_bf16, {k, 2, 4, 4, columns / 32}, {1, k, 8 * k, 2 * k, 32 * k},
                         {kTileK, 2, 4, 4, kTileN / 32});
  args.k_tiles = int((k + kTileK - 1) / kTileK);
  args.column_tiles = int((n + kTileN - 1) / kTileN);
  args.row_tiles = int((m + 63) / 64);
  auto start = [&]<int Steps>() {
    auto kernel = dh == 32   ? pingpong_kernel<T, 1, Steps>
                  : dh == 64 ? pingpong_kernel<T, 2, Steps>
                             : pingpong_kernel<T, 4, Steps>;
    int shared = 1024 + kTileB * Steps + kPingTileA * ping_slots(Steps);
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    kernel<<<ping_blocks(args.row_tiles, args.column_tiles, multiprocessors), 384, shared, stream>>>(args);
  };
  switch (args.k_tiles) {
    case 3:
      start.template operator()<3>();
      break;
    case 4:
      start.template operator()<4>();
      break;
    case 5:
      start.template operator()<5>();
      break;
    default:
      start.template operator()<6>();
  }
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace basis::ops::bd
