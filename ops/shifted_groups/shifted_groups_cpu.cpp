#include <algorithm>

#include "core/parallel.h"
#include "ops/shifted_groups/shifted_groups.h"

namespace basis::ops {
namespace {

// A run of the H/2 heads of one position is contiguous on both sides.
template <class T>
void split(const Tensor& x, const Tensor& y) {
  int64_t B = x.size(0), N = x.size(1), g = y.size(1), run = y.size(2) * y.size(3), groups = y.size(0) / (2 * B);
  core::parallel_for(y.size(0), std::max<int64_t>(1, 8192 / (g * run)), [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      int64_t n = e % groups, b = e / groups % B, half = e / groups / B, first = group_begin(half, n, g);
      for (int64_t i = 0; i < g; ++i) {
        T* to = y.data<T>() + (e * g + i) * run;
        if (i < group_size(half, n, g) && first + i < N)
          std::copy_n(x.data<T>() + ((b * N + first + i) * 2 + half) * run, run, to);
        else
          std::fill_n(to, run, T(0));
      }
    }
  });
}

template <class T>
void join(const Tensor& y, const Tensor& x) {
  int64_t B = x.size(0), N = x.size(1), g = y.size(1), run = y.size(2) * y.size(3), groups = y.size(0) / (2 * B);
  core::parallel_for(B * N * 2, std::max<int64_t>(1, 8192 / run), [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      int64_t half = e % 2, t = e / 2 % N, b = e / 2 / N, n = (t + half * (g / 2)) / g;
      int64_t i = t - group_begin(half, n, g);
      std::copy_n(y.data<T>() + (((half * B + b) * groups + n) * g + i) * run, run, x.data<T>() + e * run);
    }
  });
}

void lengths(const Tensor& of, int64_t T, int64_t g, const Tensor& out) {
  int64_t groups = groups_of(T, g), B = out.numel() / (2 * groups);
  for (int64_t e = 0; e < out.numel(); ++e) {
    int64_t n = e % groups, b = e / groups % B, half = e / groups / B;
    int64_t all = of ? std::min<int64_t>(of.data<int32_t>()[b], T) : T;
    out.data<int32_t>()[e] = int32_t(std::clamp<int64_t>(all - group_begin(half, n, g), 0, group_size(half, n, g)));
  }
}

REGISTER_KERNEL(split_groups_kernel, cpu, f32, split<float>)
REGISTER_KERNEL(split_groups_kernel, cpu, f64, split<double>)
REGISTER_KERNEL(join_groups_kernel, cpu, f32, join<float>)
REGISTER_KERNEL(join_groups_kernel, cpu, f64, join<double>)
REGISTER_KERNEL(group_lengths_kernel, cpu, i32, lengths)

}  // namespace
}  // namespace basis::ops
