// Var: a tensor that can be differentiated. Execution is eager; every op that sees an input needing a gradient leaves a
// node behind, and `backward` visits the nodes from the newest to the oldest.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace basis::autograd {

using core::Device;
using core::DType;
using core::Shape;
using core::Tensor;
using Tensors = std::vector<Tensor>;

class Node;
struct Slot;

class Var {
 public:
  Var() = default;  // undefined: an optional input that is not given
  explicit Var(Tensor value, bool requires_grad = false);

  bool defined() const { return impl_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Tensor& value() const;
  const Shape& shape() const { return value().shape(); }
  int64_t size(int axis) const { return value().size(axis); }
  int dim() const { return value().dim(); }
  DType dtype() const { return value().dtype(); }
  Device device() const { return value().device(); }
  bool requires_grad() const;

  // Leaves only (parameters, inputs).
  const Tensor& grad() const;  // undefined before the first backward; f32 when the value is bf16 or f16
  void set_grad(Tensor grad);
  void zero_grad() { set_grad({}); }
  void set_value(Tensor value);  // replaces the data of a leaf; same shape
  void set_requires_grad(bool on);
  // Called in backward each time this leaf's gradient is complete for that pass.
  void add_hook(std::function<void(Tensor& grad)> hook);

  // Accumulates d(this)/d(leaf) into every leaf's grad. The cotangent defaults to 1 and this must then hold one
  // element. The graph is freed on the way: a second backward through the same node is a core::Error.
  void backward() const;
  void backward(const Tensor& cotangent) const;

  bool same(const Var& other) const { return impl_ == other.impl_; }

 private:
  friend class Backward;
  friend std::vector<Var> record(const char*, const std::vector<Var>&, Tensors, std::function<Tensors(const Tensors&)>,
                                 bool);
  struct Impl;
  Slot& leaf_slot();
  std::shared_ptr<Impl> impl_;
};

// Backward of several outputs at once: sum over i of <cotangents[i], outputs[i]>.
void backward(const std::vector<Var>& outputs, const Tensors& cotangents);
// The gradients of <output, cotangent> for `leaves` alone, in their dtypes, undefined where the output does not depend
// on one. No leaf's accumulator changes and no hook runs.
Tensors gradients(const Var& output, const std::vector<Var>& leaves, const Tensor& cotangent);

// While one lives, ops on this thread record nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;

 private:
  bool before_;
};
bool grad_enabled();

// Reopens recording inside a NoGrad scope (recompute needs it).
class WithGrad {
 public:
  WithGrad();
  ~WithGrad();
  WithGrad(const WithGrad&) = delete;

 private:
  bool before_;
};

// One recorded op: called with the gradients of its outputs, returns those of its inputs (undefined where not needed).
using BackwardFunction = std::function<Tensors(const Tensors& output_grads)>;

// Wraps the outputs of an op and records it. `materialize`: a missing output gradient is passed as zeros, else
// undefined.
std::vector<Var> record(const char* name, const std::vector<Var>& inputs, Tensors outputs, BackwardFunction backward,
                        bool materialize = true);

// True when grad mode is on and some input needs a gradient.
bool needs_recording(const std::vector<Var>& inputs);

}  // namespace basis::autograd
