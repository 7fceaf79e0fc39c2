// Hopper's asynchronous machinery in inline PTX (sm_90a): mbarriers, bulk tensor copies, clusters. Shared-memory
// addresses are 32-bit, as `shared_address` gives them. Source: PTX ISA 8.x, "Asynchronous operations".
// BASIS_SPIN_LIMIT, where defined, traps after so many nanoseconds at a barrier: a protocol error cannot hang a GPU.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/cuda/check.h"

namespace basis::core::hopper {

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// --- mbarriers: a phase completes when `count` arrivals and all expected bytes have come -----------------------------

__device__ __forceinline__ void barrier_init(uint32_t bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
// Arrives at the same barrier of block `rank` of the cluster.
__device__ __forceinline__ void arrive_remote(uint32_t bar, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar),
      "r"(rank)
      : "memory");
}
// Waits until the phase of this parity has completed. A fresh barrier counts as having completed parity 1.
__device__ __forceinline__ void wait(uint32_t bar, uint32_t parity) {
#ifdef BASIS_SPIN_LIMIT
  uint64_t start = 0, now, polls = 0;
#endif
  uint32_t done = 0;
  while (true) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(bar), "r"(parity)
        : "memory");
    if (done) return;
#ifdef BASIS_SPIN_LIMIT
    if (++polls < 64) continue;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (!start) start = now;
    if (now - start > BASIS_SPIN_LIMIT) asm volatile("trap;");
#endif
  }
}

// Named barriers of a block; `threads` counts those that sync and those that only arrive.
__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- clusters --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// --- bulk tensor copies, global to shared; completion is counted in bytes at `bar` -----------------------------------

__device__ __forceinline__ void prefetch(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ __forceinline__ void copy_2d(uint32_t to, const CUtensorMap* map, uint32_t bar, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          to),
      "l"(map), "r"(bar), "r"(x), "r"(y)
      : "memory");
}
// What is read again soon: the L2 cache evicts it last.
struct CachePolicy {
  uint64_t bits;
};
__device__ __forceinline__ CachePolicy keep_in_l2() {
  CachePolicy p;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(p.bits));
  return p;
}
__device__ __forceinline__ void copy_2d(uint32_t to, const CUtensorMap* map, uint32_t bar, int x, int y,
                                        CachePolicy policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(bar), "r"(x), "r"(y), "l"(policy.bits)
      : "memory");
}
// To the same address (and the barrier at the same address) of every block in `mask`.
__device__ __forceinline__ void copy_2d(uint32_t to, const CUtensorMap* map, uint32_t bar, int x, int y,
                                        uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(bar), "r"(x), "r"(y), "h"(mask)
      : "memory");
}
// Five axes; the middle three start at 0.
__device__ __forceinline__ void copy_5d(uint32_t to, const CUtensorMap* map, uint32_t bar, int x, int y,
                                        uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %4, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(bar), "r"(x), "r"(0), "r"(y), "h"(mask)
      : "memory");
}

__device__ __forceinline__ void copy_5d(uint32_t to, const CUtensorMap* map, uint32_t bar, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %4, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(bar), "r"(x), "r"(0), "r"(y)
      : "memory");
}

// Register budgets of a warpgroup.
template <int N>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// --- host ------------------------------------------------------------------------------------------------------------

// A tensor map of 16-bit elements, innermost axis first, 128-byte swizzle; strides in elements, the innermost is 1.
// Elements outside `sizes` read as 0. Address and strides must be multiples of 16 bytes.
template <int Rank>
CUtensorMap tensor_map(const void* data, bool is_bf16, const uint64_t (&sizes)[Rank], const uint64_t (&strides)[Rank],
                       const uint32_t (&box)[Rank]) {
  static const auto encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
      throw Error({.where = "cuda", .expected = "a driver with cuTensorMapEncodeTiled (12.0 or newer)"});
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(f);
  }();
  cuuint64_t bytes[Rank > 1 ? Rank - 1 : 1];
  cuuint32_t ones[Rank];
  for (int i = 0; i < Rank; ++i) ones[i] = 1;
  for (int i = 1; i < Rank; ++i) bytes[i - 1] = strides[i] * 2;
  CUtensorMap map;
  CUresult status = encode(&map, is_bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, Rank,
                           const_cast<void*>(data), reinterpret_cast<const cuuint64_t*>(sizes), bytes, box, ones,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error({.where = "cuda", .expected = "a tensor map", .got = "CUresult " + std::to_string(int(status))});
  return map;
}

}  // namespace basis::core::hopper
