// The extents of a tensor: up to six dimensions, outermost first.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "core/error.h"

namespace basis::core {

class Shape {
 public:
  static constexpr int kMaxDim = 6;

  Shape() = default;  // zero dimensions: a scalar, one element
  Shape(std::initializer_list<int64_t> extents) {
    for (int64_t e : extents) push_back(e);
  }

  int dim() const { return dim_; }
  int64_t operator[](int axis) const { return extents_[axis]; }
  int64_t& operator[](int axis) { return extents_[axis]; }
  int64_t back() const { return dim_ ? extents_[dim_ - 1] : 1; }
  const int64_t* begin() const { return extents_.data(); }
  const int64_t* end() const { return extents_.data() + dim_; }

  void push_back(int64_t extent) {
    if (dim_ == kMaxDim || extent < 0)
      throw Error(
          {.where = "shape", .expected = "at most 6 extents >= 0", .got = str() + " and " + std::to_string(extent)});
    extents_[dim_++] = extent;
  }

  // Number of elements; throws when it does not fit 62 bits.
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t e : *this) {
      if (e != 0 && n > std::numeric_limits<int64_t>::max() / 2 / e)
        throw Error({.where = "shape", .expected = "fewer than 2^62 elements", .got = str()});
      n *= e;
    }
    return n;
  }

  // Axis counted from the end when negative; throws when out of range.
  int axis(int a) const {
    if (a < -dim_ || a >= dim_)
      throw Error({.where = "shape", .expected = "an axis of " + str(), .got = std::to_string(a)});
    return a < 0 ? a + dim_ : a;
  }

  bool operator==(const Shape& other) const {
    if (dim_ != other.dim_) return false;
    for (int i = 0; i < dim_; ++i)
      if (extents_[i] != other.extents_[i]) return false;
    return true;
  }

  std::string str() const {
    std::string text = "[";
    for (int i = 0; i < dim_; ++i) text += (i ? ", " : "") + std::to_string(extents_[i]);
    return text + "]";
  }

 private:
  std::array<int64_t, kMaxDim> extents_{};
  int dim_ = 0;
};

}  // namespace basis::core
