// Backward on Hopper: the two kernels of fused_attention_cuda_mma_backward.cu with warpgroup products. One warpgroup
// copies the tiles that are walked through, and the log-sum-exp and delta of their queries; the others own 64 rows
// each. The scores of the next tile are started before the last products of this one have ended. Compiled for sm_90a.
#include "ops/fused_attention/fused_attention_cuda_gradients.cuh"
#include "ops/fused_attention/fused_attention_cuda_hopper.cuh"

namespace basis::ops::fused {
namespace {

template <int Width>
struct Config {
  static constexpr int kConsumers = Width == 64 ? 3 : 2, kOwn = 64 * kConsumers, kStep = 64,
                       kThreads = 128 * (1 + kConsumers);
  // Registers of a thread: the register file holds 65536.
  static constexpr int kProducerRegisters = Width == 64 ? 32 : 24, kConsumerRegisters = Width == 64 ? 160 : 240;
  struct Memory {
    SwizzledTile<kOwn, Width> own[2];
    SwizzledTile<kStep, Width> walked[2][2];  // [tensor][buffer]
    alignas(16) float lse[2][kStep], delta[2][kStep];
    uint64_t own_full, full[2][2], statistics_full[2], statistics_empty[2], empty[2];
  };
};

// Of k and v or q and dout: those whose rows a block owns, and those it walks through.
struct Maps {
  CUtensorMap own[2], walked[2];
};

template <class C>
__device__ typename C::Memory& memory_of(char* shared) {
  auto& m = *reinterpret_cast<typename C::Memory*>((reinterpret_cast<uintptr_t>(shared) + 1023) / 1024 * 1024);
  if (threadIdx.x == 0) {
    init_barrier(m.own_full, 2);
    for (int i = 0; i < 2; ++i) {
      init_barrier(m.full[0][i], 1), init_barrier(m.full[1][i], 1);
      init_barrier(m.statistics_full[i], 32), init_barrier(m.statistics_empty[i], 128 * C::kConsumers);
      init_barrier(m.empty[i], 4 * C::kConsumers);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  return m;
}

// One thread. place(n): head and first row of the n-th tile walked.
template <class C, class Place>
__device__ void produce(typename C::Memory& m, const Maps& maps, int b, int own_head, int own_row, int steps,
                        Place place) {
  if (steps == 0) return;
  for (int i = 0; i < 2; ++i) load_tile(m.own[i], maps.own[i], m.own_full, own_head, own_row, b);
  for (int n = 0; n < steps; ++n) {
    wait(m.empty[n % 2], (n / 2 + 1) % 2);  // the first two pass at once
    int2 at = place(n);
    for (int i = 0; i < 2; ++i) load_tile(m.walked[i][n % 2], maps.walked[i], m.full[i][n % 2], at.x, at.y, b);
  }
}

// One warp.
template <class C, class Place>
__device__ void produce_statistics(typename C::Memory& m, const Call& call, const Pointers& pointers, int b, int steps,
                                   Place place) {
  for (int n = 0; n < steps; ++n) {
    wait(m.statistics_empty[n % 2], (n / 2 + 1) % 2);
    int2 at = place(n);
    for (int r = threadIdx.x % 32; r < C::kStep; r += 32) {
      bool inside = at.y + r < call.T;
      int64_t from = call.row(b, at.x, at.y + r);
      m.lse[n % 2][r] = inside ? static_cast<const float*>(pointers.lse)[from] : 0.0f;
      m.delta[n % 2][r] = inside ? static_cast<const float*>(pointers.delta)[from] : 0.0f;
    }
    arrive(m.statistics_full[n % 2]);
  }
}

// blockIdx.x = tile of keys x (B Hkv) + key head.
template <class T, int Width, bool Dropout>
__global__ void __launch_bounds__(Config<Width>::kThreads, 1)
    keys_kernel(Call call, Pointers pointers, const __grid_constant__ Maps maps) {
  using C = Config<Width>;
  extern __shared__ __align__(1024) char shared_memory[];
  auto& m = memory_of<C>(shared_memory);
  int heads = call.B * call.Hkv, head = int(blockIdx.x) % heads, b = head / call.Hkv, g = head % call.Hkv;
  int k0 = int(blockIdx.x) / heads * C::kOwn, keys = call.keys(b);
  QueryRows see = call.rows_that_see(keys, k0, C::kOwn);
  int tile0 = see.begin / C::kStep, tiles = max(0, (see.end + C::kStep - 1) / C::kStep - tile0);
  int steps = tiles * call.group;
  auto place = [&](int n) { return int2{g * call.group + n / tiles, (tile0 + n % tiles) * C::kStep}; };
  if (threadIdx.x < 128) {
    hopper::give_registers<C::kProducerRegisters>();
    if (threadIdx.x == 0) produce<C>(m, maps, b, g, k0, steps, place);
    if (threadIdx.x / 32 == 1) produce_statistics<C>(m, call, pointers, b, steps, place);
  } else {
    hopper::take_registers<C::kConsumerRegisters>();
    int group_key = (int(threadIdx.x) / 128 - 1) * 64, warp_key = k0 + group_key + int(threadIdx.x) % 128 / 32 * 16;
    Accumulators<1, Width / 8> dk, dv;
    Accumulators<1, C::kStep / 8> p, ds;  // transposed: a row is a key, a column a query
    uint32_t p_left[C::kStep / 16][4], ds_left[C::kStep / 16][4];
    clear(dk), clear(dv), clear(p), clear(ds);
    if (steps > 0) wait(m.own_full, 0);
    for (int n = 0; n < steps; ++n) {
      int buffer = n % 2;
      uint32_t parity = n / 2 % 2;
      int2 at = place(n);
      bool masked = at.y + C::kStep > call.T || !call.seen_by_rows(keys, at.y, C::kStep).all(k0, C::kOwn);
      KeyTile tile{call, b, at.x, keys, at.y, warp_key, masked};
      wait(m.full[0][buffer], parity);
      start_transposed<T>(p, m.own[0], group_key, m.walked[0][buffer]);
      wait(m.full[1][buffer], parity);
      start_transposed<T>(ds, m.own[1], group_key, m.walked[1][buffer]);
      wait(m.statistics_full[buffer], parity);
      hopper::wgmma_wait<1>();
      pin(p);
      tile.probabilities(p, m.lse[buffer]);
      if constexpr (!Dropout) {
        round_to<T>(p_left, p);
        start_product<T>(dv, p_left, m.walked[1][buffer]);
        hopper::wgmma_wait<1>();
      } else {
        hopper::wgmma_wait<0>();
      }
      pin(ds);
      tile.gradients<Dropout>(ds, p, m.delta[buffer]);
      arrive(m.statistics_empty[buffer]);
      if constexpr (Dropout) {
        round_to<T>(p_left, p);
        start_product<T>(dv, p_left, m.walked[1][buffer]);
      }
      round_to<T>(ds_left, ds);
      start_product<T>(dk, ds_left, m.walked[0][buffer]);
      hopper::wgmma_wait<0>();
      pin(dk), pin(dv), pin(p_left), pin(ds_left);
      warp_arrive(m.empty[buffer]);
    }
    float unit[1][2] = {{1, 1}}, scales[1][2] = {{float(call.scale), float(call.scale)}};
    if (warp_key < call.S) {
      store_rows(dk, scales, call.key_rows<T>(pointers.dk, b, warp_key, g, call.D), call.S - warp_key);
      store_rows(dv, unit, call.key_rows<T>(pointers.dv, b, warp_key, g, call.Dv), call.S - warp_key);
    }
  }
}

// blockIdx.x = tile of queries from the last x (B H) + head.
template <class T, int Width, bool Dropout>
__global__ void __launch_bounds__(Config<Width>::kThreads, 1)
    queries_kernel(Call call, Pointers pointers, const __grid_constant__ Maps maps) {
  using C = Config<Width>;
  extern __shared__ __align__(1024) char shared_memory[];
  auto& m = memory_of<C>(shared_memory);
  int heads = call.B * call.H, head = int(blockIdx.x) % heads, b = head / call.H, h = head % call.H, g = h / call.group;
  int row0 = ((call.T + C::kOwn - 1) / C::kOwn - 1 - int(blockIdx.x) / heads) * C::kOwn, keys = call.keys(b);
  SeenByRows seen = call.seen_by_rows(keys, row0, C::kOwn);
  KeyTiles tiles = seen.tiles(C::kStep);
  if (threadIdx.x < 128) {
    hopper::give_registers<C::kProducerRegisters>();
    if (threadIdx.x == 0)
      produce<C>(m, maps, b, h, row0, tiles.count, [&](int n) { return int2{g, tiles(n) * C::kStep}; });
  } else {
    hopper::take_registers<C::kConsumerRegisters>();
    int group_row = (int(threadIdx.x) / 128 - 1) * 64, warp_row = row0 + group_row + int(threadIdx.x) % 128 / 32 * 16;
    float lse[1][2], delta[1][2], scales[1][2] = {{float(call.scale), float(call.scale)}};
    load_statistics(call, pointers, b, h, warp_row, lse, delta);
    Accumulators<1, Width / 8> dq;
    Accumulators<1, C::kStep / 8> p, ds;
    uint32_t ds_left[C::kStep / 16][4];
    clear(dq), clear(p), clear(ds);
    if (tiles.count > 0) wait(m.own_full, 0);
    for (int n = 0; n < tiles.count; ++n) {
      int buffer = n % 2, k0 = tiles(n) * C::kStep;
      QueryTile tile{call, b, h, keys, warp_row, k0, !seen.all(k0, C::kStep)};
      wait(m.full[0][buffer], n / 2 % 2);
      start_transposed<T>(p, m.own[0], group_row, m.walked[0][buffer]);
      wait(m.full[1][buffer], n / 2 % 2);
      start_transposed<T>(ds, m.own[1], group_row, m.walked[1][buffer]);
      hopper::wgmma_wait<1>();
      pin(p);
      tile.probabilities(p, lse);
      hopper::wgmma_wait<0>();
      pin(ds);
      tile.gradients<Dropout>(ds, p, delta);
      round_to<T>(ds_left, ds);
      start_product<T>(dq, ds_left, m.walked[0][buffer]);
      hopper::wgmma_wait<0>();
      pin(dq), pin(ds_left);
      warp_arrive(m.empty[buffer]);
    }
    if (warp_row < call.T)
      store_rows(dq, scales, call.query_rows<T>(pointers.dq, b, warp_row, h, call.D), call.T - warp_row);
  }
}

}  // namespace

bool hopper_backward(const Call& call, const Pointers& p, DType dtype, Device device) {
  if (max(call.D, call.Dv) > 128 || !is_hopper(device)) return false;
  return choose_mma(call, p, dtype, [&]<class T, int Padded, bool Dropout>() {
    constexpr int kWidth = Padded <= 64 ? 64 : 128;
    using C = Config<kWidth>;
    constexpr size_t kShared = sizeof(typename C::Memory) + 1024;
    auto queries = [&](const void* x, int width, int tile) {
      return tensor_map(x, dtype, call.B, call.T, call.H, width, tile);
    };
    auto keys = [&](const void* x, int width, int tile) {
      return tensor_map(x, dtype, call.B, call.S, call.Hkv, width, tile);
    };
    Maps by_keys{{keys(p.k, call.D, C::kOwn), keys(p.v, call.Dv, C::kOwn)},
                 {queries(p.q, call.D, C::kStep), queries(p.dout, call.Dv, C::kStep)}};
    Maps by_queries{{queries(p.q, call.D, C::kOwn), queries(p.dout, call.Dv, C::kOwn)},
                    {keys(p.k, call.D, C::kStep), keys(p.v, call.Dv, C::kStep)}};
    launch_shared(keys_kernel<T, kWidth, Dropout>, device,
                  tile_grid(ceil_div(call.S, C::kOwn), int64_t{call.B} * call.Hkv), C::kThreads, kShared, call, p,
                  by_keys);
    launch_shared(queries_kernel<T, kWidth, Dropout>, device,
                  tile_grid(ceil_div(call.T, C::kOwn), int64_t{call.B} * call.H), C::kThreads, kShared, call, p,
                  by_queries);
  });
}

}  // namespace basis::ops::fused
