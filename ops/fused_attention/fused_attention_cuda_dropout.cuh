// Dropout factors of the probabilities as they lie in accumulators. One Philox block covers four neighbouring keys of a
// row, which neighbouring lanes hold: where the blocks begin at multiples of four keys, each lane computes one and they
// exchange words. All lanes of a warp must call.
#pragma once

#include "ops/fused_attention/fused_attention_cuda.cuh"

namespace basis::ops::fused {

__device__ __forceinline__ uint32_t word_of(const Philox4& r, int i) {
  uint32_t low = i & 1 ? r.y : r.x, high = i & 1 ? r.w : r.z;
  return i & 2 ? high : low;
}

__device__ __forceinline__ float factor_of(const Call& call, uint32_t bits) {
  return uniform_from_bits(bits) >= call.dropout ? call.kept : 0.0f;
}

__device__ __forceinline__ Philox4 block_of(const Call& call, int64_t row, int j) {
  return philox(call.seed, stream_at(call.stream, call.base), (uint64_t(row) * uint64_t(call.S) + uint64_t(j)) / 4);
}

// f[e]: of row `row` + 8 (e / 2) and key k0 + 2 (lane % 4) + e % 2. row: of lse, this lane's; k0: a multiple of 8.
__device__ __forceinline__ void factors_by_queries(const Call& call, int64_t row, int k0, float (&f)[4]) {
  int lane = threadIdx.x % 32, j = k0 + lane % 4 * 2;
  if (call.S % 4 == 0) {
    bool odd = lane % 2;  // the even lane draws for the first row, the odd one for the second
    Philox4 r = block_of(call, row + (odd ? 8 : 0), j);
    uint32_t one = __shfl_xor_sync(~0u, odd ? r.x : r.z, 1), two = __shfl_xor_sync(~0u, odd ? r.y : r.w, 1);
    f[0] = factor_of(call, odd ? one : r.x), f[1] = factor_of(call, odd ? two : r.y);
    f[2] = factor_of(call, odd ? r.z : one), f[3] = factor_of(call, odd ? r.w : two);
  } else {
    float2 first = call.factors(row, j), second = call.factors(row + 8, j);
    f[0] = first.x, f[1] = first.y, f[2] = second.x, f[3] = second.y;
  }
}

// f[e]: of row `row` + 2 (lane % 4) + e % 2 and key k0 + lane / 4 + 8 (e / 2). row: of lse; k0: a multiple of 8.
__device__ __forceinline__ void factors_by_keys(const Call& call, int64_t row, int k0, float (&f)[4]) {
  int lane = threadIdx.x % 32, j = k0 + lane / 4, mine = lane / 4 % 4;
  row += lane % 4 * 2;
  if (call.S % 4 == 0) {  // lane `mine` of the four that share a key's block draws for e = mine
    Philox4 r = block_of(call, row + mine % 2, j + mine / 2 * 8);
    uint32_t words[4] = {word_of(r, mine)};
#pragma unroll
    for (int away = 1; away < 4; ++away) words[away] = __shfl_xor_sync(~0u, word_of(r, mine ^ away), away * 4);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int away = e ^ mine;
      uint32_t low = away & 1 ? words[1] : words[0], high = away & 1 ? words[3] : words[2];
      f[e] = factor_of(call, away & 2 ? high : low);
    }
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) f[e] = call.factor(row + e % 2, j + e / 2 * 8);
  }
}

}  // namespace basis::ops::fused
