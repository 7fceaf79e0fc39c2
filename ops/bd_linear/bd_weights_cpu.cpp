#include "core/parallel.h"
#include "ops/bd_linear/bd_weights.h"

namespace basis::ops {
namespace {

template <class T>
void weights_cpu(const BdWeightsArguments& a, const BdWeightsOptions& o, bool inverse) {
  const int32_t* order = o.order ? o.order.data<int32_t>() : nullptr;
  for (size_t i = 0; i < 3; ++i) {
    if (a.bias_copy[i]) {
      T* to = a.bias_copy[i].data<T>();
      for (int64_t j = 0; j < a.bias_copy[i].numel(); ++j) to[j] = a.bias[i] ? a.bias[i].data<T>()[j] : T(0);
    }
    if (!a.written[i]) continue;
    int64_t d = a.written[i].size(1), width = a.stored[i].size(1), dh = d - width;
    int64_t first = bd_slice_of(o, i) == BdSlice::front ? dh : 0;  // of the stored channels that C has
    int64_t slice = first ? 0 : width;
    T *written = a.written[i].data<T>(), *stored = a.stored[i].data<T>();
    core::parallel_for(a.written[i].size(0), std::max<int64_t>(1, 16384 / d), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        auto at = [&](int64_t p) -> T& { return written[r * d + (order ? order[p] : p)]; };
        for (int64_t p = 0; p < width; ++p)
          if (inverse)
            stored[r * width + p] = at(first + p);
          else
            at(first + p) = stored[r * width + p];
        for (int64_t p = 0; p < dh && !inverse; ++p) at(slice + p) = p == r % dh;
      }
    });
  }
}

REGISTER_KERNEL(bd_weights_kernel, cpu, f32, weights_cpu<float>)
REGISTER_KERNEL(bd_weights_kernel, cpu, f64, weights_cpu<double>)

}  // namespace
}  // namespace basis::ops
