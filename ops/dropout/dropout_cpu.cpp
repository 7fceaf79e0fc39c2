#include "core/parallel.h"
#include "ops/dropout/dropout.h"

namespace basis::ops {
namespace {

template <class T>
void dropout_cpu(const DropoutOptions& o, const Tensor& x, const Tensor& y) {
  const T* in = x.data<T>();
  T* out = y.data<T>();
  int64_t n = x.numel();
  float p = float(o.p);
  uint64_t stream = core::stream_at(o.stream, o.base);
  T scale = T(1 / (1 - o.p));
  core::parallel_for((n + 3) / 4, 2048, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      core::Philox4 r = core::philox(o.seed, stream, uint64_t(block));
      const uint32_t words[4] = {r.x, r.y, r.z, r.w};
      for (int64_t i = 4 * block; i < std::min(n, 4 * block + 4); ++i)
        out[i] = core::uniform_from_bits(words[i & 3]) >= p ? in[i] * scale : T(0);
    }
  });
}

REGISTER_KERNEL(dropout_kernel, cpu, f32, dropout_cpu<float>)
REGISTER_KERNEL(dropout_kernel, cpu, f64, dropout_cpu<double>)

}  // namespace
}  // namespace basis::ops
