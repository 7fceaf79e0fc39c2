#include "core/parallel.h"
#include "ops/linear/linear.h"

namespace basis::ops {
namespace {

template <class T>
void column_sum_cpu(const Tensor& x, const Tensor& out) {
  int64_t n = x.size(0), c = x.size(1);
  const T* in = x.data<T>();
  T* sum = out.data<T>();
  constexpr int64_t block = 64;  // columns a thread owns: each is summed by one thread, top to bottom
  int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, n * block));
  core::parallel_for((c + block - 1) / block, grain, [&](int64_t begin, int64_t end) {
    int64_t first = begin * block, last = std::min(c, end * block);
    std::fill(sum + first, sum + last, T(0));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = first; j < last; ++j) sum[j] += in[i * c + j];
  });
}

template <class T>
void column_sums_cpu(const autograd::Tensors& xs, const autograd::Tensors& outs) {
  for (size_t i = 0; i < xs.size(); ++i) column_sum_cpu<T>(xs[i], outs[i]);
}

REGISTER_KERNEL(column_sums, cpu, f32, column_sums_cpu<float>)
REGISTER_KERNEL(column_sums, cpu, f64, column_sums_cpu<double>)
REGISTER_KERNEL(column_sum, cpu, f32, column_sum_cpu<float>)
REGISTER_KERNEL(column_sum, cpu, f64, column_sum_cpu<double>)

}  // namespace
}  // namespace basis::ops
