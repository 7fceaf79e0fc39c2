// A block per head: the search is sequential, a probe is a window of dot products.
#include "core/cuda/launch.cuh"
#include "ops/conv_basis/recover.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr int kThreads = 128;

struct Extents {
  int64_t T, H, Hkv, D;
  int k, window;
  float delta, slack, scale;
};

template <class T>
__global__ void recover_block(Extents e, const T* q, const T* k, int* breakpoints, int* degenerate) {
  extern __shared__ float profile[];  // the first `window` entries of the last breakpoint's column
  int64_t b = blockIdx.x / e.H, h = blockIdx.x % e.H;
  q += (b * e.T * e.H + h) * e.D, k += (b * e.T * e.Hkv + h * e.Hkv / e.H) * e.D;
  int* out = breakpoints + int64_t(blockIdx.x) * e.k;
  int ambiguous = 0, found = 1;
  auto logit = [&](int64_t i, int64_t j) {
    float sum = 0;
    for (int64_t d = 0; d < e.D; ++d) sum += widen(q[i * e.H * e.D + d]) * widen(k[j * e.Hkv * e.D + d]);
    return e.scale * sum;
  };
  auto changed = [&](int64_t j) {
    float distance = 0;
    for (int l = threadIdx.x; l < e.window; l += kThreads) distance += fabsf(logit(j + l, j) - profile[l]);
    distance = block_reduce<Sum, kThreads>(distance);
    if (distance > e.slack + 1e-3f * e.delta && distance < e.delta - e.slack) ++ambiguous;
    return distance >= e.delta - e.slack;
  };
  int64_t last = e.T - e.window, s = 0;
  if (threadIdx.x == 0) out[0] = 0;
  while (found < e.k && s < last) {
    __syncthreads();
    for (int l = threadIdx.x; l < e.window; l += kThreads) profile[l] = logit(s + l, s);
    __syncthreads();
    int64_t low = s + 1, high = last;
    if (!changed(high)) break;
    while (low < high) {
      int64_t middle = (low + high) / 2;
      if (changed(middle))
        high = middle;
      else
        low = middle + 1;
    }
    s = low;
    if (threadIdx.x == 0) out[found] = int(s);
    ++found;
  }
  for (int r = found + int(threadIdx.x); r < e.k; r += kThreads) out[r] = int(e.T > 1 ? e.T : 1) + r;
  if (threadIdx.x == 0) degenerate[blockIdx.x] = ambiguous;
}

template <class T>
void recover(const Tensor& q, const Tensor& k, const RecoverOptions& o, const Tensor& breakpoints,
             const Tensor& degenerate) {
  Extents e{q.size(1),     q.size(2),     k.size(2),      q.size(3),
            int(o.k),      int(o.window), float(o.delta), float(2 * double(o.window) * o.epsilon),
            float(o.scale)};
  launch_shared(recover_block<T>, q.device(), dim3(unsigned(q.size(0) * e.H)), kThreads,
                sizeof(float) * size_t(o.window), e, q.data<T>(), k.data<T>(), breakpoints.data<int32_t>(),
                degenerate.data<int32_t>());
}

REGISTER_KERNEL(recover_kernel, cuda, f32, recover<float>)
REGISTER_KERNEL(recover_kernel, cuda, bf16, recover<bf16>)
REGISTER_KERNEL(recover_kernel, cuda, f16, recover<f16>)

}  // namespace
}  // namespace basis::ops
