// Copies from device to shared memory that do not pass through registers.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace basis::core {

// 16 bytes at 16-byte addresses; zeros where not `valid`, and nothing is read.
__device__ __forceinline__ void copy16_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
// Waits for this thread's copies; a barrier then shows them to the block.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

// This thread's copies since the last call form a group; wait until at most `Groups` of the newest are under way.
__device__ __forceinline__ void end_copy_group() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int Groups>
__device__ __forceinline__ void wait_for_copy_groups() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Groups) : "memory");
}

}  // namespace basis::core
