// CPU attention for processors with AVX512, built whatever the target of the rest. The headers that others share come
// before the target is set, so that no other file gets code it cannot run.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "ops/fused_attention/fused_attention_cpu.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#include "ops/fused_attention/fused_attention_cpu_blocks.h"

namespace basis::ops::cpu_attention {
template struct Blocks<Simd<float, 64>>;
template struct Blocks<Simd<double, 64>>;
}  // namespace basis::ops::cpu_attention
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace basis::ops::cpu_attention {

template <class T>
const Kernels<T>* kernels_avx512() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return &Blocks<Simd<T, 64>>::table;
#endif
  return nullptr;
}
template const Kernels<float>* kernels_avx512<float>();
template const Kernels<double>* kernels_avx512<double>();

}  // namespace basis::ops::cpu_attention
