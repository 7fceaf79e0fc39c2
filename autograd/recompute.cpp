#include "autograd/recompute.h"

namespace basis::autograd {
namespace {

Tensor gradient_or_zeros(const Var& v) {
  if (v.grad()) return v.grad().to(v.dtype());
  return Tensor::zeros(v.shape(), v.dtype(), v.device());
}

}  // namespace

std::vector<Var> recompute(const BlockFunction& f, const std::vector<Var>& xs, core::Generator* generator) {
  if (!grad_enabled()) return f(xs);
  uint64_t consumer = generator ? generator->consumer() : 0;
  Tensors ys;
  {
    NoGrad no_grad;
    for (Var& y : f(xs)) ys.push_back(y.value());
  }
  // The parameters inside f are not inputs of this node, so it is recorded even when no x needs a gradient.
  std::vector<Var> inputs;
  Tensors values;
  for (const Var& x : xs) {
    inputs.push_back(!x || x.requires_grad() ? x : Var(x.value(), true));
    values.push_back(x ? x.value() : Tensor());
  }
  auto backward = [f, values, generator, consumer](const Tensors& grads) {
    WithGrad with_grad;
    std::vector<Var> again;
    for (const Tensor& v : values) again.push_back(v ? Var(v, true) : Var());
    uint64_t now = generator ? generator->consumer() : 0;
    if (generator) generator->set_consumer(consumer);
    std::vector<Var> out = f(again);
    if (generator) generator->set_consumer(now);
    autograd::backward(out, grads);
    Tensors input_grads;
    for (const Var& v : again) input_grads.push_back(v ? gradient_or_zeros(v) : Tensor());
    return input_grads;
  };
  return record("recompute", inputs, std::move(ys), std::move(backward));
}

}  // namespace basis::autograd
