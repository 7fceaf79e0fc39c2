#include "core/parallel.h"
#include "ops/permute_channels/permute_channels.h"

namespace basis::ops {
namespace {

template <class T>
void permute_cpu(const Tensor& from, const Tensor& order, bool inverse, const Tensor& to) {
  int64_t c = from.size(1);
  const T* in = from.data<T>();
  const int32_t* index = order.data<int32_t>();
  T* out = to.data<T>();
  core::parallel_for(from.size(0), std::max<int64_t>(1, 16384 / c), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t j = 0; j < c; ++j) {
        if (inverse)
          out[n * c + index[j]] = in[n * c + j];
        else
          out[n * c + j] = in[n * c + index[j]];
      }
  });
}

REGISTER_KERNEL(permute_channels_kernel, cpu, f32, permute_cpu<float>)
REGISTER_KERNEL(permute_channels_kernel, cpu, f64, permute_cpu<double>)

}  // namespace
}  // namespace basis::ops
