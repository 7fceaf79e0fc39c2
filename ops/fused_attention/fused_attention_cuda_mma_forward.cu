// FlashAttention-2 forward (Dao, arXiv 2307.08691) on tensor cores. A warp owns 16 M rows of queries; the block's keys
// and values come through two buffers, so that a tile is copied while the one before is computed with.
#include "ops/fused_attention/fused_attention_cuda_softmax.cuh"

namespace basis::ops::fused {
namespace {

// M: 16-row tiles of a warp; keys: of a tile; blocks: wanted on a multiprocessor at a time.
struct Shape {
  int m, warps, keys, blocks;
};
constexpr Shape shape_of(int width) {
  return width <= 64 ? Shape{2, 4, 64, 2} : width <= 128 ? Shape{2, 4, 64, 2} : Shape{1, 4, 32, 2};
}

template <int Width>
struct Config {
  static constexpr Shape kShape = shape_of(Width);
  static constexpr int kM = kShape.m, kWarps = kShape.warps, kKeys = kShape.keys, kBlocks = kShape.blocks,
                       kThreads = 32 * kWarps, kWarpRows = 16 * kM, kRows = kWarpRows * kWarps;
  struct Memory {
    Tile<kRows, Width> q;
    Tile<kKeys, Width> k[2], v[2];
  };
};

// blockIdx.x = tile of queries from the last (the longest under a causal mask) x (B H) + head.
template <class T, int Width, bool Dropout>
__global__ void __launch_bounds__(Config<Width>::kThreads, Config<Width>::kBlocks)
    forward_kernel(Call call, Pointers pointers) {
  using C = Config<Width>;
  constexpr int kStride = Width + 8;
  extern __shared__ __align__(16) char shared_memory[];
  auto& memory = *reinterpret_cast<typename C::Memory*>(shared_memory);
  int heads = call.B * call.H, head = int(blockIdx.x) % heads, b = head / call.H, h = head % call.H, g = h / call.group;
  int row0 = ((call.T + C::kRows - 1) / C::kRows - 1 - int(blockIdx.x) / heads) * C::kRows, keys = call.keys(b);
  int warp_row = int(threadIdx.x) / 32 * C::kWarpRows;
  Rows<T> k = call.key_rows<T>(pointers.k, b, 0, g, call.D), v = call.key_rows<T>(pointers.v, b, 0, g, call.Dv);
  auto load_keys = [&](int k0, int buffer) {
    load_async<C::kThreads>(memory.k[buffer], k.from(k0), call.S - k0);
    load_async<C::kThreads>(memory.v[buffer], v.from(k0), call.S - k0);
    commit_copies();
  };

  Accumulators<C::kM, Width / 8> o;
  float top[C::kM][2], sum[C::kM][2], before[C::kM][2];
  clear(o);
#pragma unroll
  for (int m = 0; m < C::kM; ++m) top[m][0] = top[m][1] = -INFINITY, sum[m][0] = sum[m][1] = 0;
  SeenByRows seen = call.seen_by_rows(keys, row0, C::kRows);
  KeyTiles tiles = seen.tiles(C::kKeys);
  float scale = float(call.scale) * kLog2e;
  if (tiles.count > 0) {
    load_async<C::kThreads>(memory.q, call.query_rows<T>(pointers.q, b, row0, h, call.D), call.T - row0);
    load_keys(tiles(0) * C::kKeys, 0);
  }
  uint32_t q_at = by_rows<kStride>(memory.q.data, warp_row);

  for (int n = 0; n < tiles.count; ++n) {
    int k0 = tiles(n) * C::kKeys;
    wait_for_copies();
    __syncthreads();  // this tile has come, and nobody reads the other buffer any more
    if (n + 1 < tiles.count) load_keys(tiles(n + 1) * C::kKeys, (n + 1) % 2);
    Accumulators<C::kM, C::kKeys / 8> s;
    multiply_transposed<T, Width, kStride>(s, q_at, by_columns<kStride>(memory.k[n % 2].data));
    if (!seen.all(k0, C::kKeys)) hide(s, call, keys, row0 + warp_row, k0);
    online_softmax(s, top, sum, before, scale);
    multiply_rows(o, before);
    if constexpr (Dropout) drop(s, call, call.row(b, h, row0 + warp_row), k0);
    multiply_add<T, kStride>(o, s, by_rows<kStride>(memory.v[n % 2].data, 0));
  }

  float inverse[C::kM][2];
  finish_softmax(call, static_cast<float*>(pointers.lse), b, h, row0 + warp_row, top, sum, inverse);
  store_rows(o, inverse, call.query_rows<T>(pointers.o, b, row0 + warp_row, h, call.Dv), call.T - row0 - warp_row);
}

}  // namespace

bool mma_forward(const Call& call, const Pointers& p, DType dtype, Device device) {
  return choose_mma(call, p, dtype, [&]<class T, int Width, bool Dropout>() {
    using C = Config<Width>;
    launch_shared(forward_kernel<T, Width, Dropout>, device,
                  tile_grid(ceil_div(call.T, C::kRows), int64_t{call.B} * call.H), C::kThreads,
                  sizeof(typename C::Memory), call, p);
  });
}

}  // namespace basis::ops::fused
