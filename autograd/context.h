// What an op may ask while it runs, and what it keeps for its backward pass.
#pragma once

#include <bitset>
#include <initializer_list>

#include "autograd/var.h"

namespace basis::autograd {

class Context {
 public:
  // Will backward be asked for the gradient of input i? Saving and computing for an input that needs none is waste.
  bool needs(int input) const { return needs_[size_t(input)]; }
  bool recording() const { return needs_.any(); }

  // Keeps tensors for backward (exactly what backward reads). Ignored when nothing is recorded.
  void save(std::initializer_list<Tensor> tensors) {
    if (recording()) saved_ = tensors;
  }
  const Tensor& saved(size_t i) const { return saved_.at(i); }

  void set_needs(size_t input, bool on) { needs_[input] = on; }

 private:
  std::bitset<16> needs_;
  Tensors saved_;
};

}  // namespace basis::autograd
