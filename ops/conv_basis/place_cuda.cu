// A block per head: signs of a thousand scores are gathered at once, then one thread walks their set bits and jumps to
// where the allowance grows.
#include "core/cuda/launch.cuh"
#include "ops/conv_basis/place.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 1024;

struct Extents {
  int64_t T, H, Hkv, k, segment, burst;
  bool stagger;
};

template <class T>
__global__ void __launch_bounds__(kThreads) place_block(Extents e, const T* score, int* breakpoints) {
  __shared__ unsigned open[kThreads / 32];
  __shared__ int64_t found, next;  // breakpoints so far; the earliest place of another
  int64_t b = blockIdx.x / e.H, h = blockIdx.x % e.H, offset = e.stagger ? h * e.segment / e.H : 0;
  if (e.Hkv) score += b * e.T * e.Hkv + h * e.Hkv / e.H;
  int* out = breakpoints + int64_t(blockIdx.x) * e.k;
  auto earliest = [&](int64_t n) { return max(int64_t(1), (n - e.burst) * e.segment - offset); };
  if (threadIdx.x == 0) out[0] = 0, found = 1, next = earliest(1);
  __syncthreads();
  for (int64_t begin = 0; begin < e.T && found < e.k; begin += kThreads) {
    int64_t t = begin + threadIdx.x;
    unsigned bits = __ballot_sync(0xffffffffu, t < e.T && (!e.Hkv || widen(score[t * e.Hkv]) >= 0));
    if (threadIdx.x % 32 == 0) open[threadIdx.x / 32] = bits;
    __syncthreads();
    if (threadIdx.x == 0) {
      int64_t at = max(begin, next), end = min(begin + kThreads, e.T), n = found;
      while (at < end && n < e.k) {
        unsigned word = open[(at - begin) / 32] >> (at - begin) % 32;
        if (!word) {
          at = begin + ((at - begin) / 32 + 1) * 32;
          continue;
        }
        at += __ffs(int(word)) - 1;
        out[n++] = int(at);
        at = max(at + 1, earliest(n));
      }
      found = n, next = at;
    }
    __syncthreads();
  }
  for (int64_t r = found + threadIdx.x; r < e.k; r += kThreads) out[r] = int(max(int64_t(1), e.T) + r);
}

template <class T>
void place(int64_t length, const Tensor& score, const PlaceOptions& o, const Tensor& breakpoints) {
  Extents e{length, breakpoints.size(1), score ? score.size(2) : 0, o.k, o.segment, o.burst, o.stagger};
  launch(place_block<T>, breakpoints.device(), breakpoints.size(0) * e.H, kThreads, e,
         score ? score.data<T>() : static_cast<const T*>(nullptr), breakpoints.data<int32_t>());
}

REGISTER_KERNEL(place_kernel, cuda, f32, place<float>)
REGISTER_KERNEL(place_kernel, cuda, f64, place<double>)
REGISTER_KERNEL(place_kernel, cuda, bf16, place<bf16>)
REGISTER_KERNEL(place_kernel, cuda, f16, place<f16>)

}  // namespace
}  // namespace basis::ops
