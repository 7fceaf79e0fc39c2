#include <cmath>

#include "core/parallel.h"
#include "ops/conv_basis/recover.h"

namespace basis::ops {
namespace {

// One head's search.
template <class T>
struct Search {
  const T *q, *k;
  int64_t length, D, q_stride, k_stride;
  const RecoverOptions& o;
  std::vector<T> profile;  // the first `window` entries of the last breakpoint's column
  int32_t ambiguous = 0;

  T logit(int64_t i, int64_t j) const {
    T sum = 0;
    for (int64_t d = 0; d < D; ++d) sum += q[i * q_stride + d] * k[j * k_stride + d];
    return T(o.scale) * sum;
  }
  // Is column j past the next change?
  bool changed(int64_t j) {
    double distance = 0, slack = 2 * double(o.window) * o.epsilon;
    for (int64_t l = 0; l < o.window; ++l) distance += std::abs(double(logit(j + l, j) - profile[size_t(l)]));
    // Rounding is no evidence against the assumption.
    if (distance > slack + 1e-3 * o.delta && distance < o.delta - slack) ++ambiguous;
    return distance >= o.delta - slack;
  }
  void run(int32_t* out) {
    int64_t found = 0, last = length - o.window, s = 0;
    profile.resize(size_t(o.window));
    out[found++] = 0;
    while (found < o.k && s < last) {
      for (int64_t l = 0; l < o.window; ++l) profile[size_t(l)] = logit(s + l, s);
      int64_t low = s + 1, high = last;
      if (!changed(high)) break;
      while (low < high) {
        int64_t middle = (low + high) / 2;
        if (changed(middle))
          high = middle;
        else
          low = middle + 1;
      }
      out[found++] = int32_t(s = low);
    }
    for (int64_t r = found; r < o.k; ++r) out[r] = int32_t(std::max<int64_t>(1, length) + r);
  }
};

template <class T>
void recover(const Tensor& q, const Tensor& k, const RecoverOptions& o, const Tensor& breakpoints,
             const Tensor& degenerate) {
  int64_t B = q.size(0), length = q.size(1), H = q.size(2), D = q.size(3), Hkv = k.size(2);
  core::parallel_for(B * H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t bh = begin; bh < end; ++bh) {
      int64_t b = bh / H, h = bh % H;
      Search<T> s{q.data<T>() + (b * length * H + h) * D,
                  k.data<T>() + (b * length * Hkv + h * Hkv / H) * D,
                  length,
                  D,
                  H * D,
                  Hkv * D,
                  o,
                  {}};
      s.run(breakpoints.data<int32_t>() + bh * o.k);
      degenerate.data<int32_t>()[bh] = s.ambiguous;
    }
  });
}

REGISTER_KERNEL(recover_kernel, cpu, f32, recover<float>)
REGISTER_KERNEL(recover_kernel, cpu, f64, recover<double>)

}  // namespace
}  // namespace basis::ops
