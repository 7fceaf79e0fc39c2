#include "autograd/recompute.h"

namespace basis::autograd {

Var recompute(const std::function<Var(const Var&)>& f, const Var& x, core::Generator* generator) {
  if (!grad_enabled()) return f(x);
  uint64_t consumer = generator ? generator->consumer() : 0;
  Tensor y;
  {
    NoGrad no_grad;
    y = f(x).value();
  }
  // The parameters inside f are not inputs of this node, so it is recorded even when x itself needs no gradient.
  Var input = x.requires_grad() ? x : Var(x.value(), true);
  auto backward = [f, value = x.value(), generator, consumer](const Tensors& grads) -> Tensors {
    WithGrad with_grad;
    Var again(value, true);
    uint64_t now = generator ? generator->consumer() : 0;
    if (generator) generator->set_consumer(consumer);
    Var out = f(again);
    if (generator) generator->set_consumer(now);
    out.backward(grads[0]);
    return {again.grad() ? again.grad().to(value.dtype())
                         : Tensor::zeros(value.shape(), value.dtype(), value.device())};
  };
  return record("recompute", {input}, {y}, std::move(backward))[0];
}

}  // namespace basis::autograd
