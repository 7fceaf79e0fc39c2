#include "core/parallel.h"
#include "ops/conv_basis/place.h"

namespace basis::ops {
namespace {

template <class T>
void place(int64_t length, const Tensor& score, const PlaceOptions& o, const Tensor& breakpoints) {
  int64_t H = breakpoints.size(1), Hkv = score ? score.size(2) : 0;
  core::parallel_for(breakpoints.size(0) * H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t bh = begin; bh < end; ++bh) {
      int64_t h = bh % H, offset = o.stagger ? h * o.segment / H : 0;
      const T* s = score ? score.data<T>() + bh / H * length * Hkv + h * Hkv / H : nullptr;
      int32_t* out = breakpoints.data<int32_t>() + bh * o.k;
      int64_t found = 0;
      out[found++] = 0;
      for (int64_t t = 1; t < length && found < o.k; ++t)
        if ((!s || s[t * Hkv] >= 0) && found < 1 + o.burst + (t + offset) / o.segment) out[found++] = int32_t(t);
      for (int64_t r = found; r < o.k; ++r) out[r] = int32_t(std::max<int64_t>(1, length) + r);
    }
  });
}

REGISTER_KERNEL(place_kernel, cpu, f32, place<float>)
REGISTER_KERNEL(place_kernel, cpu, f64, place<double>)

}  // namespace
}  // namespace basis::ops
