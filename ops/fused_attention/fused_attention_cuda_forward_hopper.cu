// Forward on Hopper, after FlashAttention-3 (Shah et al., arXiv 2407.08608): one warpgroup copies tiles of keys and
// values into two buffers each; the others own 64 rows of queries each and start the scores of the next tile before the
// product with the values of this one, so that the softmax of one runs beside the other. Compiled for sm_90a.
#include "ops/fused_attention/fused_attention_cuda_hopper.cuh"

namespace basis::ops::fused {
namespace {

template <int Width>
struct Config {
  static constexpr int kConsumers = 2, kKeys = 128, kRows = 64 * kConsumers, kThreads = 128 * (1 + kConsumers);
  // Registers of a thread: the register file holds 65536.
  static constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  struct Memory {
    SwizzledTile<kRows, Width> q;
    SwizzledTile<kKeys, Width> k[2], v[2];
    uint64_t q_full, k_full[2], v_full[2], k_empty[2], v_empty[2];
  };
};

struct Maps {
  CUtensorMap q, k, v;
};

// One thread: fills the buffers in the order in which the consumers read them.
template <class C>
__device__ void produce(typename C::Memory& m, const Maps& maps, KeyTiles tiles, int b, int h, int g, int row0) {
  if (tiles.count == 0) return;
  load_tile(m.q, maps.q, m.q_full, h, row0, b);
  for (int n = 0; n < tiles.count; ++n) {
    int buffer = n % 2;
    uint32_t parity = (n / 2 + 1) % 2;  // of the buffer's last release; the first two waits pass at once
    wait(m.k_empty[buffer], parity);
    load_tile(m.k[buffer], maps.k, m.k_full[buffer], g, tiles(n) * C::kKeys, b);
    wait(m.v_empty[buffer], parity);
    load_tile(m.v[buffer], maps.v, m.v_full[buffer], g, tiles(n) * C::kKeys, b);
  }
}

template <class T, int Width, bool Dropout>
__device__ void consume(typename Config<Width>::Memory& m, const Call& call, const Pointers& pointers,
                        const SeenByRows& seen, KeyTiles tiles, int keys, int b, int h, int row0) {
  using C = Config<Width>;
  int group_row = (int(threadIdx.x) / 128 - 1) * 64, warp_row = row0 + group_row + int(threadIdx.x) % 128 / 32 * 16;
  float top[1][2] = {{-INFINITY, -INFINITY}}, sum[1][2] = {}, before[1][2], scale = float(call.scale) * kLog2e;
  Accumulators<1, C::kKeys / 8> s;
  Accumulators<1, Width / 8> o;
  uint32_t p[C::kKeys / 16][4];
  clear(o), clear(s);
  auto softmax = [&](int n) {
    int k0 = tiles(n) * C::kKeys;
    if (!seen.all(k0, C::kKeys)) hide(s, call, keys, warp_row, k0);
    online_softmax(s, top, sum, before, scale);
    if constexpr (Dropout) drop(s, call, call.row(b, h, warp_row), k0);
  };
  if (tiles.count > 0) {
    wait(m.q_full, 0);
    wait(m.k_full[0], 0);
    start_transposed<T>(s, m.q, group_row, m.k[0]);
    hopper::wgmma_wait<0>();
    pin(s);
    warp_arrive(m.k_empty[0]);
    softmax(0);
    round_to<T>(p, s);
    for (int n = 1; n < tiles.count; ++n) {
      int next = n % 2, now = 1 - next;
      wait(m.k_full[next], n / 2 % 2);
      start_transposed<T>(s, m.q, group_row, m.k[next]);
      wait(m.v_full[now], (n - 1) / 2 % 2);
      start_product<T>(o, p, m.v[now]);
      hopper::wgmma_wait<1>();
      pin(s);
      warp_arrive(m.k_empty[next]);
      softmax(n);
      hopper::wgmma_wait<0>();
      pin(o), pin(p);
      warp_arrive(m.v_empty[now]);
      multiply_rows(o, before);
      round_to<T>(p, s);
    }
    int last = tiles.count - 1;
    wait(m.v_full[last % 2], last / 2 % 2);
    start_product<T>(o, p, m.v[last % 2]);
    hopper::wgmma_wait<0>();
    pin(o);
  }
  float inverse[1][2];
  finish_softmax(call, static_cast<float*>(pointers.lse), b, h, warp_row, top, sum, inverse);
  if (warp_row < call.T)
    store_rows(o, inverse, call.query_rows<T>(pointers.o, b, warp_row, h, call.Dv), call.T - warp_row);
}

// blockIdx.x = tile of queries from the last (the longest under a causal mask) x (B H) + head.
template <class T, int Width, bool Dropout>
__global__ void __launch_bounds__(Config<Width>::kThreads, 1)
    hopper_kernel(Call call, Pointers pointers, const __grid_constant__ Maps maps) {
  using C = Config<Width>;
  extern __shared__ __align__(1024) char shared_memory[];
  auto& m = *reinterpret_cast<typename C::Memory*>((reinterpret_cast<uintptr_t>(shared_memory) + 1023) / 1024 * 1024);
  int heads = call.B * call.H, head = int(blockIdx.x) % heads, b = head / call.H, h = head % call.H, g = h / call.group;
  int row0 = ((call.T + C::kRows - 1) / C::kRows - 1 - int(blockIdx.x) / heads) * C::kRows, keys = call.keys(b);
  SeenByRows seen = call.seen_by_rows(keys, row0, C::kRows);
  KeyTiles tiles = seen.tiles(C::kKeys);
  if (threadIdx.x == 0) {
    init_barrier(m.q_full, 1);
    for (int i = 0; i < 2; ++i) {
      init_barrier(m.k_full[i], 1), init_barrier(m.v_full[i], 1);
      init_barrier(m.k_empty[i], 4 * C::kConsumers), init_barrier(m.v_empty[i], 4 * C::kConsumers);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    hopper::give_registers<C::kProducerRegisters>();
    if (threadIdx.x == 0) produce<C>(m, maps, tiles, b, h, g, row0);
  } else {
    hopper::take_registers<C::kConsumerRegisters>();
    consume<T, Width, Dropout>(m, call, pointers, seen, tiles, keys, b, h, row0);
  }
}

}  // namespace

bool hopper_forward(const Call& call, const Pointers& p, DType dtype, Device device) {
  if (max(call.D, call.Dv) > 128 || !is_hopper(device)) return false;
  return choose_mma(call, p, dtype, [&]<class T, int Padded, bool Dropout>() {
    constexpr int kWidth = Padded <= 64 ? 64 : 128;
    using C = Config<kWidth>;
    Maps maps{tensor_map(p.q, dtype, call.B, call.T, call.H, call.D, C::kRows),
              tensor_map(p.k, dtype, call.B, call.S, call.Hkv, call.D, C::kKeys),
              tensor_map(p.v, dtype, call.B, call.S, call.Hkv, call.Dv, C::kKeys)};
    launch_shared(hopper_kernel<T, kWidth, Dropout>, device,
                  tile_grid(ceil_div(call.T, C::kRows), int64_t{call.B} * call.H), C::kThreads,
                  sizeof(typename C::Memory) + 1024, call, p, maps);
  });
}

}  // namespace basis::ops::fused
