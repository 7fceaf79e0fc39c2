// FlashAttention-2 backward (Dao, arXiv 2307.08691) on tensor cores, as two kernels instead of one with atomics. The
// one for dk and dv computes the transposed scores k q^T, so that p^T and ds^T, as they lie in registers, are the left
// factors of dv = p^T do and dk = ds^T q. The one for dq computes the scores once more.
#include "ops/fused_attention/fused_attention_cuda_gradients.cuh"

namespace basis::ops::fused {
namespace {

// m: 16-row tiles of a warp; step: rows of the tiles it walks; blocks: wanted on a multiprocessor at a time.
struct Shape {
  int m, warps, step, blocks;
};
constexpr Shape keys_shape(int width) {
  return width <= 64 ? Shape{2, 4, 32, 2} : width <= 128 ? Shape{1, 4, 64, 1} : Shape{1, 4, 32, 1};
}
constexpr Shape queries_shape(int width) {
  return width <= 64 ? Shape{1, 4, 64, 3} : width <= 128 ? Shape{2, 4, 32, 2} : Shape{1, 4, 32, 1};
}

// Own: the tensors whose rows the block owns; Walked: those it walks through, in two buffers.
template <int Width, Shape S>
struct Config {
  static constexpr int kM = S.m, kStep = S.step, kBlocks = S.blocks, kThreads = 32 * S.warps, kWarpRows = 16 * kM,
                       kOwn = kWarpRows * S.warps;
  struct Memory {
    Tile<kOwn, Width> own[2];
    Tile<kStep, Width> walked[2][2];
    alignas(16) float lse[2][kStep], delta[2][kStep];
  };
};

// Which of dk and dv a kernel computes: heads over 128 have no registers for both.
enum Gradients { kBoth, kOnlyK, kOnlyV };

// blockIdx.x = tile of keys x (B Hkv) + key head: under a causal mask the first tiles have the longest way.
template <class T, int Width, bool Dropout, Gradients Wanted>
__global__ void __launch_bounds__(Config<Width, keys_shape(Width)>::kThreads, Config<Width, keys_shape(Width)>::kBlocks)
    keys_kernel(Call call, Pointers pointers) {
  using C = Config<Width, keys_shape(Width)>;
  constexpr int kStride = Width + 8, kBlocks = C::kStep / 8;
  extern __shared__ __align__(16) char shared_memory[];
  auto& memory = *reinterpret_cast<typename C::Memory*>(shared_memory);
  int heads = call.B * call.Hkv, head = int(blockIdx.x) % heads, b = head / call.Hkv, g = head % call.Hkv;
  int k0 = int(blockIdx.x) / heads * C::kOwn, keys = call.keys(b);
  int warp_key = int(threadIdx.x) / 32 * C::kWarpRows;
  QueryRows see = call.rows_that_see(keys, k0, C::kOwn);
  int tile0 = see.begin / C::kStep, tiles = max(0, (see.end + C::kStep - 1) / C::kStep - tile0);
  int steps = tiles * call.group;  // (head of the group, tile of queries)

  auto load_queries = [&](int n, int buffer) {
    int h = g * call.group + n / tiles, row0 = (tile0 + n % tiles) * C::kStep, rows = call.T - row0;
    int64_t stats = call.row(b, h, row0);
    load_async<C::kThreads>(memory.walked[0][buffer], call.query_rows<T>(pointers.q, b, row0, h, call.D), rows);
    load_async<C::kThreads>(memory.walked[1][buffer], call.query_rows<T>(pointers.dout, b, row0, h, call.Dv), rows);
    for (int r = threadIdx.x; r < C::kStep; r += C::kThreads) {
      int64_t from = r < rows ? stats + r : stats;
      copy_async_word(shared_address(&memory.lse[buffer][r]), static_cast<const float*>(pointers.lse) + from, r < rows);
      copy_async_word(shared_address(&memory.delta[buffer][r]), static_cast<const float*>(pointers.delta) + from,
                      r < rows);
    }
    commit_copies();
  };
  Accumulators<C::kM, Width / 8> dk, dv;
  clear(dk), clear(dv);
  if (steps > 0) {
    load_async<C::kThreads>(memory.own[0], call.key_rows<T>(pointers.k, b, k0, g, call.D), call.S - k0);
    load_async<C::kThreads>(memory.own[1], call.key_rows<T>(pointers.v, b, k0, g, call.Dv), call.S - k0);
    load_queries(0, 0);
  }
  uint32_t k_at = by_rows<kStride>(memory.own[0].data, warp_key), v_at = by_rows<kStride>(memory.own[1].data, warp_key);

  for (int n = 0; n < steps; ++n) {
    int h = g * call.group + n / tiles, row0 = (tile0 + n % tiles) * C::kStep, buffer = n % 2;
    wait_for_copies();
    __syncthreads();  // this tile has come, and nobody reads the other buffer any more
    if (n + 1 < steps) load_queries(n + 1, (n + 1) % 2);
    const auto &q = memory.walked[0][buffer], &dout = memory.walked[1][buffer];

    Accumulators<C::kM, kBlocks> p, ds;  // transposed: a row is a key, a column a query
    multiply_transposed<T, Width, kStride>(p, k_at, by_columns<kStride>(q.data));
    bool masked = row0 + C::kStep > call.T || !call.seen_by_rows(keys, row0, C::kStep).all(k0, C::kOwn);
    KeyTile at{call, b, h, keys, row0, k0 + warp_key, masked};
    at.probabilities(p, memory.lse[buffer]);
    if constexpr (Wanted != kOnlyV) {
      multiply_transposed<T, Width, kStride>(ds, v_at, by_columns<kStride>(dout.data));
      at.gradients<Dropout>(ds, p, memory.delta[buffer]);
      multiply_add<T, kStride>(dk, ds, by_rows<kStride>(q.data, 0));
    } else if constexpr (Dropout) {
      at.drop(p);
    }
    if constexpr (Wanted != kOnlyK) multiply_add<T, kStride>(dv, p, by_rows<kStride>(dout.data, 0));
  }

  int from = k0 + warp_key, left = call.S - from;
  float unit[C::kM][2], scales[C::kM][2];
#pragma unroll
  for (int m = 0; m < C::kM; ++m) unit[m][0] = unit[m][1] = 1, scales[m][0] = scales[m][1] = float(call.scale);
  if constexpr (Wanted != kOnlyV) store_rows(dk, scales, call.key_rows<T>(pointers.dk, b, from, g, call.D), left);
  if constexpr (Wanted != kOnlyK) store_rows(dv, unit, call.key_rows<T>(pointers.dv, b, from, g, call.Dv), left);
}

// blockIdx.x = tile of queries from the last x (B H) + head.
template <class T, int Width, bool Dropout>
__global__ void __launch_bounds__(Config<Width, queries_shape(Width)>::kThreads,
                                  Config<Width, queries_shape(Width)>::kBlocks)
    queries_kernel(Call call, Pointers pointers) {
  using C = Config<Width, queries_shape(Width)>;
  constexpr int kStride = Width + 8, kBlocks = C::kStep / 8;
  extern __shared__ __align__(16) char shared_memory[];
  auto& memory = *reinterpret_cast<typename C::Memory*>(shared_memory);
  int heads = call.B * call.H, head = int(blockIdx.x) % heads, b = head / call.H, h = head % call.H, g = h / call.group;
  int row0 = ((call.T + C::kOwn - 1) / C::kOwn - 1 - int(blockIdx.x) / heads) * C::kOwn, keys = call.keys(b);
  int warp_row = int(threadIdx.x) / 32 * C::kWarpRows;
  Rows<T> k = call.key_rows<T>(pointers.k, b, 0, g, call.D), v = call.key_rows<T>(pointers.v, b, 0, g, call.Dv);
  auto load_keys = [&](int j, int buffer) {
    load_async<C::kThreads>(memory.walked[0][buffer], k.from(j), call.S - j);
    load_async<C::kThreads>(memory.walked[1][buffer], v.from(j), call.S - j);
    commit_copies();
  };
  Accumulators<C::kM, Width / 8> dq;
  clear(dq);
  SeenByRows seen_by_rows = call.seen_by_rows(keys, row0, C::kOwn);
  KeyTiles tiles = seen_by_rows.tiles(C::kStep);
  if (tiles.count > 0) {
    load_async<C::kThreads>(memory.own[0], call.query_rows<T>(pointers.q, b, row0, h, call.D), call.T - row0);
    load_async<C::kThreads>(memory.own[1], call.query_rows<T>(pointers.dout, b, row0, h, call.Dv), call.T - row0);
    load_keys(tiles(0) * C::kStep, 0);
  }
  float lse[C::kM][2], delta[C::kM][2], scales[C::kM][2];
  load_statistics(call, pointers, b, h, row0 + warp_row, lse, delta);
#pragma unroll
  for (int m = 0; m < C::kM; ++m) scales[m][0] = scales[m][1] = float(call.scale);
  uint32_t q_at = by_rows<kStride>(memory.own[0].data, warp_row),
           dout_at = by_rows<kStride>(memory.own[1].data, warp_row);

  for (int n = 0; n < tiles.count; ++n) {
    int k0 = tiles(n) * C::kStep;
    wait_for_copies();
    __syncthreads();  // this tile has come, and nobody reads the other buffer any more
    if (n + 1 < tiles.count) load_keys(tiles(n + 1) * C::kStep, (n + 1) % 2);
    Accumulators<C::kM, kBlocks> p, ds;
    multiply_transposed<T, Width, kStride>(p, q_at, by_columns<kStride>(memory.walked[0][n % 2].data));
    QueryTile at{call, b, h, keys, row0 + warp_row, k0, !seen_by_rows.all(k0, C::kStep)};
    at.probabilities(p, lse);
    multiply_transposed<T, Width, kStride>(ds, dout_at, by_columns<kStride>(memory.walked[1][n % 2].data));
    at.gradients<Dropout>(ds, p, delta);
    multiply_add<T, kStride>(dq, ds, by_rows<kStride>(memory.walked[0][n % 2].data, 0));
  }
  store_rows(dq, scales, call.query_rows<T>(pointers.dq, b, row0 + warp_row, h, call.D), call.T - row0 - warp_row);
}

}  // namespace

bool mma_backward(const Call& call, const Pointers& p, DType dtype, Device device) {
  return choose_mma(call, p, dtype, [&]<class T, int Width, bool Dropout>() {
    using K = Config<Width, keys_shape(Width)>;
    using Q = Config<Width, queries_shape(Width)>;
    auto run_keys = [&](auto kernel) {
      launch_shared(kernel, device, tile_grid(ceil_div(call.S, K::kOwn), int64_t{call.B} * call.Hkv), K::kThreads,
                    sizeof(typename K::Memory), call, p);
    };
    if constexpr (Width <= 128) {
      run_keys(keys_kernel<T, Width, Dropout, kBoth>);
    } else {
      run_keys(keys_kernel<T, Width, Dropout, kOnlyK>);
      run_keys(keys_kernel<T, Width, Dropout, kOnlyV>);
    }
    launch_shared(queries_kernel<T, Width, Dropout>, device,
                  tile_grid(ceil_div(call.T, Q::kOwn), int64_t{call.B} * call.H), Q::kThreads,
                  sizeof(typename Q::Memory), call, p);
  });
}

}  // namespace basis::ops::fused
