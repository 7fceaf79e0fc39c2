// wgmma: one warpgroup multiplies A [64, 16] by B [16, N], both in shared memory, into f32 accumulators in registers.
// Warp w of the group holds rows 16w..16w+15; of lane l, d[4j + 2h + e] is row l/4 + 8h, column 8j + 2(l%4) + e.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace basis::core::hopper {

// Descriptor of an operand tile in 128-byte swizzle (as a bulk tensor copy writes it), at a multiple of 1024 bytes.
// Rows along the reduction (K-major): rows of 64 elements = 128 bytes, `group` (8 rows) = 1024 bytes, `block` unused;
// a step of 16 along the reduction adds 32 bytes to the address.
// Rows across it (MN-major): each row is one index of the reduction, 64 outputs wide; `block` is the distance of the
// next 64 outputs, `group` of the next 8 rows; a step of 16 adds 2048 bytes.
__device__ __forceinline__ uint64_t operand(uint32_t address, uint32_t block, uint32_t group) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(block >> 4) << 16 | uint64_t(group >> 4) << 32 |
         uint64_t(1) << 62;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `Pending` committed groups still run.
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// clang-format off
#define BASIS_REGISTERS_176 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87"
#define BASIS_OPERANDS_176 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
  "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
  "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
  "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), \
  "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
  "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), \
  "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define BASIS_REGISTERS_192 BASIS_REGISTERS_176 \
  ", %88, %89, %90, %91, %92, %93, %94, %95"
#define BASIS_OPERANDS_192 BASIS_OPERANDS_176, \
  "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define BASIS_REGISTERS_256 BASIS_REGISTERS_192 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define BASIS_OPERANDS_256 BASIS_OPERANDS_192, \
  "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), \
  "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), \
  "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), \
  "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

#define BASIS_WGMMA(N, TYPE, a, b, s, t)                                                             \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #s ", 0;\n"                                      \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" BASIS_REGISTERS_##N  \
               "}, %" #a ", %" #b ", p, 1, 1, 0, %" #t ";\n}"                                         \
               : BASIS_OPERANDS_##N : "l"(x), "l"(y), "r"(accumulate), "n"(Transposed))
// clang-format on

// d = A B (+ d). Transposed: B is MN-major.
template <class T, int N, int Transposed>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t x, uint64_t y, int accumulate) {
  if constexpr (N == 256) {
    if constexpr (std::is_same_v<T, bf16>)
      BASIS_WGMMA(256, "bf16", 128, 129, 130, 131);
    else
      BASIS_WGMMA(256, "f16", 128, 129, 130, 131);
  }
  if constexpr (N == 192) {
    if constexpr (std::is_same_v<T, bf16>)
      BASIS_WGMMA(192, "bf16", 96, 97, 98, 99);
    else
      BASIS_WGMMA(192, "f16", 96, 97, 98, 99);
  }
  if constexpr (N == 176) {
    if constexpr (std::is_same_v<T, bf16>)
      BASIS_WGMMA(176, "bf16", 88, 89, 90, 91);
    else
      BASIS_WGMMA(176, "f16", 88, 89, 90, 91);
  }
  static_assert(N == 256 || N == 192 || N == 176);
}

#undef BASIS_WGMMA
#undef BASIS_REGISTERS_256
#undef BASIS_OPERANDS_256
#undef BASIS_REGISTERS_192
#undef BASIS_OPERANDS_192
#undef BASIS_REGISTERS_176
#undef BASIS_OPERANDS_176

}  // namespace basis::core::hopper
