// dX of the BD projection on Hopper: dX[:, R] = dY C^T and dX[:, S] = sum over heads dY_h in one pass over dY.
//
// A block owns a tile of 128 rows x Width columns of dX[:, R] and walks along N = H dh. Every step's tile of dY
// (128 x 64) lies in shared memory for the tensor cores anyway; the block of column tile j also adds it up when it is
// part j of its head (64 channels of dh), in f32 registers, while the products run: dY is never read for the sum alone.
// Clusters of 2 x CN blocks: two row tiles share C^T's tiles, CN column tiles share dY's; each block fetches its part
// for all that need it.
#pragma once

#include "ops/bd_linear/bd_forward_hopper.cuh"

namespace basis::ops::bd {

struct BackwardArgs {
  CUtensorMap dy, c;                                   // dY [M, N]; C^T [N, K]
  void *rest, *slice;                                  // dX[:, R] and dX[:, S]: first elements, row stride d
  int m, k, d, steps, parts, row_pairs, column_tiles;  // parts = dh / 64 = tiles of dY of a head
  int stages, skew;
};

template <class T, int Width, int CN>
struct BackwardTile {
  static constexpr int kBlocks = (Width + 63) / 64;  // of 64 columns of C^T
  static constexpr int kStage = kTileA + kBlocks * 64 * 64 * 2;
  static constexpr int kMaxStages = (kSharedBytes - 2048) / kStage;
};

template <class T, int Width, int CN>
__device__ __forceinline__ void backward_copies(const BackwardArgs& args, uint32_t tiles, uint32_t full,
                                                uint32_t empty) {
  using Tile = BackwardTile<T, Width, CN>;
  int rank = cluster_rank(), i = rank / CN, j = rank % CN, slot = 0;
  uint32_t phase = 1;
  uint16_t row_mask = uint16_t(((1 << CN) - 1) << (i * CN)), column_mask = uint16_t((1 | 1 << CN) << j);
  int groups = args.column_tiles / CN, count = args.row_pairs * groups;
  for (int tile = blockIdx.x / (2 * CN); tile < count; tile += gridDim.x / (2 * CN)) {
    int row = (tile / groups * 2 + i) * kTileM, column = (tile % groups * CN + j) * Width;
    for (int step = 0; step < args.steps; ++step) {
      uint32_t a = tiles + Tile::kStage * slot, b = a + kTileA, bar = full + 8 * slot;
      wait(empty + 8 * slot, phase);
      arrive_expect(bar, Tile::kStage);
      copy_2d(a + kTileA / CN * j, &args.dy, bar, step * 64, row + kTileM / CN * j, row_mask);
#pragma unroll
      for (int block = 0; block < Tile::kBlocks; ++block)
        copy_2d(b + 8192 * block + 4096 * i, &args.c, bar, column + 64 * block, step * 64 + 32 * i, column_mask);
      if (++slot == args.stages) slot = 0, phase ^= 1;
    }
  }
}

// Adds the thread's share of a 64 x 64 tile of dY (its row's 32 channels) to `sum`.
template <class T>
__device__ __forceinline__ void add_heads(float (&sum)[32], uint32_t tile) {
  int row = threadIdx.x % 128 / 2, half = threadIdx.x % 2;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    uint32_t v[4], address = tile + 128 * row + 16 * ((4 * half + c) ^ (row % 8));
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(address));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float low, high;
      unpack<T>(v[e], low, high);
      sum[8 * c + 2 * e] += low;
      sum[8 * c + 2 * e + 1] += high;
    }
  }
}

template <class T, int Width, int CN>
__device__ __forceinline__ void backward_products(const BackwardArgs& args, int group, uint32_t tiles, uint32_t full,
                                                  uint32_t empty) {
  using Tile = BackwardTile<T, Width, CN>;
  int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
  int rank = cluster_rank(), i = rank / CN, j = rank % CN, slot = 0;
  uint32_t phase = 0;
  // Whom a freed stage concerns: the CN blocks of this row tile and the other one of this column tile.
  uint32_t reader = lane < CN ? i * CN + lane : (1 - i) * CN + j;
  float acc[Width / 2];
  int groups = args.column_tiles / CN, count = args.row_pairs * groups;
  for (int tile = blockIdx.x / (2 * CN); tile < count; tile += gridDim.x / (2 * CN)) {
    int row = (tile / groups * 2 + i) * kTileM + 64 * group, column_tile = tile % groups * CN + j;
    int part = 0;
    float sum[32] = {};
    if (group == 1 && args.skew) named_sync(1, 256);
    for (int step = 0; step < args.steps; ++step) {
      wait(full + 8 * slot, phase);
      uint32_t a = tiles + Tile::kStage * slot;
      uint64_t x = operand(a + kTileA / 2 * group, 16, 1024), c = operand(a + kTileA, 8192, 1024);
      wgmma_fence();
#pragma unroll
      for (int q = 0; q < 4; ++q) wgmma<T, Width, 1>(acc, x + 2 * q, c + 128 * q, step + q > 0);
      wgmma_commit();
      if (group == 0 && step + 1 == args.skew) named_arrive(1, 256);
      if (part == column_tile) add_heads<T>(sum, a + kTileA / 2 * group);
      if (++part == args.parts) part = 0;
      if (step > 0) {
        wgmma_wait<1>();
        __syncwarp();
        if (lane < CN + 1) arrive_remote(empty + 8 * (slot ? slot - 1 : args.stages - 1), reader);
      }
      if (++slot == args.stages) slot = 0, phase ^= 1;
    }
    wgmma_wait<0>();
    __syncwarp();
    if (lane < CN + 1) arrive_remote(empty + 8 * (slot ? slot - 1 : args.stages - 1), reader);
    int r = row + 16 * warp + lane / 4, first = column_tile * Width + 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < Width / 8; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        if (r + 8 * h < args.m && first + 8 * n < args.k)
          *reinterpret_cast<uint32_t*>(static_cast<T*>(args.rest) + int64_t(r + 8 * h) * args.d + first + 8 * n) =
              pack<T>(acc[4 * n + 2 * h], acc[4 * n + 2 * h + 1]);
    int s = row + threadIdx.x % 128 / 2;
    if (column_tile < args.parts && s < args.m) {
      T* to = static_cast<T*>(args.slice) + int64_t(s) * args.d + 64 * column_tile + 32 * (threadIdx.x % 2);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        uint32_t v[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) v[e] = pack<T>(sum[8 * c + 2 * e], sum[8 * c + 2 * e + 1]);
        reinterpret_cast<uint4*>(to)[c] = make_uint4(v[0], v[1], v[2], v[3]);
      }
    }
  }
}

template <class T, int Width, int CN>
__global__ void __launch_bounds__(384, 1) backward_kernel(const __grid_constant__ BackwardArgs args) {
  extern __shared__ uint8_t dynamic[];
  __shared__ uint64_t barriers[2][kMaxSlots];
  uint32_t tiles = (shared_address(dynamic) + 1023) / 1024 * 1024;
  uint32_t full = shared_address(barriers[0]), empty = shared_address(barriers[1]);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kMaxSlots; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, 8 * (CN + 1));
    }
    fence_barrier_init();
  }
  cluster_sync();
  int group = int(threadIdx.x / 128) - 1;
  if (group < 0) {
    give_registers<40>();
    if (threadIdx.x == 0) backward_copies<T, Width, CN>(args, tiles, full, empty);
  } else {
    take_registers<232>();
    backward_products<T, Width, CN>(args, group, tiles, full, empty);
  }
  cluster_sync();
}

// Columns of a tile of dX[:, R], and tiles in a row of blocks of a cluster.
struct BackwardPlan {
  int width = 192, cn = 1, skew = 1;
};
inline BackwardPlan plan_backward(int64_t k) {
  BackwardPlan best;
  int64_t cost = INT64_MAX;
  for (int width : {256, 192, 176}) {
    int64_t tiles = (k + width - 1) / width;
    if (tiles * width < cost) cost = tiles * width, best = BackwardPlan{width, 1, 1};  // cn = 2 is slower: README.md
  }
  return best;
}

// With more columns, cuBLASLt alone is quicker by more than a pass over dY for the slice should take (README.md).
constexpr int64_t kWidestRest = 384;

// Whether the kernel takes this shape. Pointers must be multiples of 16 bytes.
inline bool backward_fits(int64_t m, int64_t n, int64_t d, int64_t dh) {
  int64_t k = d - dh;
  return (dh == 64 || dh == 128) && n % 64 == 0 && d % 8 == 0 && k > 0 && m > 0 && m < (1 << 30) && n < (1 << 30) &&
         k <= kWidestRest && (k + plan_backward(k).width - 1) / plan_backward(k).width >= dh / 64;
}

template <class T, int Width, int CN>
void launch_backward(BackwardArgs args, int multiprocessors, cudaStream_t stream) {
  using Tile = BackwardTile<T, Width, CN>;
  args.stages = std::min(Tile::kMaxStages, kMaxSlots);
  args.skew = args.steps + args.skew > args.stages && args.skew < args.stages ? args.skew : 0;
  auto kernel = backward_kernel<T, Width, CN>;
  int shared = 1024 + Tile::kStage * args.stages;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = 2 * CN, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(multiprocessors / (2 * CN) * (2 * CN)));
  config.blockDim = dim3(384);
  config.dynamicSmemBytes = size_t(shared);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  static int clusters = 0;  // as many as can be resident at once
  if (!clusters) CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
  int64_t tiles = int64_t(args.row_pairs) * (args.column_tiles / CN);
  config.gridDim.x = unsigned(std::min<int64_t>(clusters, tiles)) * 2 * CN;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args));
}

// dy [m, n], c [n, d - dh] (C^T) -> dx [m, d], all dense.
template <class T>
void backward_hopper(const T* dy, const T* c, T* dx, int64_t m, int64_t n, int64_t d, int64_t dh, bool slice_in_front,
                     BackwardPlan plan, int multiprocessors, cudaStream_t stream) {
  constexpr bool is_bf16 = std::is_same_v<T, bf16>;
  uint64_t rows = m, columns = n, k = d - dh;
  BackwardArgs args{.rest = slice_in_front ? dx + dh : dx,
                    .slice = slice_in_front ? dx : dx + k,
                    .m = int(m),
                    .k = int(k),
                    .d = int(d),
                    .steps = int(n / 64),
                    .parts = int(dh / 64),
                    .row_pairs = int((m + 2 * kTileM - 1) / (2 * kTileM)),
                    .column_tiles = int((k + plan.width - 1) / plan.width),
                    .skew = plan.skew};
  args.dy = tensor_map<2>(dy, is_bf16, {columns, rows}, {1, columns}, {64, uint32_t(kTileM / plan.cn)});
  args.c = tensor_map<2>(c, is_bf16, {k, columns}, {1, k}, {64, 32});
  auto launch = plan.width == 256   ? (plan.cn == 2 ? launch_backward<T, 256, 2> : launch_backward<T, 256, 1>)
                : plan.width == 192 ? (plan.cn == 2 ? launch_backward<T, 192, 2> : launch_backward<T, 192, 1>)
                                    : (plan.cn == 2 ? launch_backward<T, 176, 2> : launch_backward<T, 176, 1>);
  launch(args, multiprocessors, stream);
}

}  // namespace basis::ops::bd
