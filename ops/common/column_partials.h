// Reductions of the CPU kernels that vectorise and give the same bits however many threads run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"

namespace basis::ops {

// sum over j of f(j) in 16 lanes: a fixed order that the compiler may vectorise.
template <class T, class F>
T lane_sum(int64_t n, F&& f) {
  constexpr int lanes = 16;
  T sum[lanes] = {};
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes)
    for (int l = 0; l < lanes; ++l) sum[l] += f(j + l);
  T total = 0;
  for (; j < n; ++j) total += f(j);
  for (int l = 0; l < lanes; ++l) total += sum[l];
  return total;
}

// Column sums of an n x c matrix whose rows are produced on the fly: fixed blocks of rows are summed independently,
// then the blocks in order. The target [c] may be undefined: then nothing is kept.
template <class T>
class ColumnPartials {
 public:
  ColumnPartials(const core::Tensor& target, int64_t n, int64_t c)
      : target_(target), n_(n), c_(c), blocks_(std::clamp<int64_t>(n * c / 8192, 1, 32)) {
    if (target_) partials_.assign(size_t(blocks_ * c), T(0));
  }
  T* block(int64_t b) { return target_ ? partials_.data() + b * c_ : nullptr; }

  // Calls body(block, first row, last row) for each block, in parallel.
  template <class Body>
  void for_row_blocks(Body&& body) {
    core::parallel_for(blocks_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) body(b, n_ * b / blocks_, n_ * (b + 1) / blocks_);
    });
  }

  void finish() {
    if (!target_) return;
    T* out = target_.data<T>();
    std::fill(out, out + c_, T(0));
    for (int64_t b = 0; b < blocks_; ++b)
      for (int64_t j = 0; j < c_; ++j) out[j] += partials_[size_t(b * c_ + j)];
  }

 private:
  core::Tensor target_;
  int64_t n_, c_, blocks_;
  std::vector<T> partials_;
};

}  // namespace basis::ops
