// CPU attention for processors with AVX2, built whatever the target of the rest. The headers that others share come
// before the target is set, so that no other file gets code it cannot run.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "ops/fused_attention/fused_attention_cpu.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "ops/fused_attention/fused_attention_cpu_blocks.h"

namespace basis::ops::cpu_attention {
template struct Blocks<Simd<float, 32>>;
template struct Blocks<Simd<double, 32>>;
}  // namespace basis::ops::cpu_attention
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace basis::ops::cpu_attention {

template <class T>
const Kernels<T>* kernels_avx2() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &Blocks<Simd<T, 32>>::table;
#endif
  return nullptr;
}
template const Kernels<float>* kernels_avx2<float>();
template const Kernels<double>* kernels_avx2<double>();

}  // namespace basis::ops::cpu_attention
