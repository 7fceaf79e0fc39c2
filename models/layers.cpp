#include "models/layers.h"

#include <cmath>

#include "ops/bd_linear/bd_linear.h"
#include "ops/cast/cast.h"
#include "ops/dropout/dropout.h"
#include "ops/gelu_mlp/gelu_mlp.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/linear/linear.h"
#include "ops/pointwise/pointwise.h"
#include "ops/rms_norm/rms_norm.h"

namespace basis::models {

Var operand(const Pass& pass, const Var& parameter) {
  if (!parameter || parameter.dtype() == pass.compute) return parameter;
  if (pass.copies)
    if (auto it = pass.copies->find(parameter.value().raw());
        it != pass.copies->end() && it->second.dtype() == pass.compute)
      return ops::cast(parameter, pass.compute, it->second);
  return ops::cast(parameter, pass.compute);
}

Var dropout(const Pass& pass, const Var& x, double p) {
  return pass.training && p > 0 ? ops::dropout(x, p, *pass.random) : x;
}

namespace {

void check_rank(int64_t in, int64_t out, int64_t rank) {
  if (rank < std::min(in, out)) return;
  throw core::Error({.where = "a linear layer of low rank",
                     .expected = "a rank below " + std::to_string(std::min(in, out)),
                     .got = std::to_string(rank),
                     .remedy = "lower it, or set it to 0 for a dense layer",
                     .code = core::ExitCode::usage});
}

}  // namespace

Linear::Linear(int64_t in, int64_t out, bool with_bias, double init_std, LowRank low, Init bias_init) : low_(low) {
  check_rank(in, out, low.rank);
  int64_t r = low.rank;
  parameter(weight, "weight", {out, r ? r : in}, Init::normal(init_std));
  if (r) parameter(inner, "inner", {r, low.bd ? in - r : in}, Init::normal(1 / std::sqrt(double(r))));
  if (with_bias) parameter(bias, "bias", {out}, bias_init);
}

Var Linear::operator()(const Pass& pass, const Var& x) const {
  if (pass.observe) (*pass.observe)(weight, x);
  Var h = !inner    ? x
          : low_.bd ? ops::bd_linear(x, operand(pass, inner), {.head_dim = low_.rank})
                    : ops::linear(x, operand(pass, inner), {});
  return ops::linear(h, operand(pass, weight), operand(pass, bias));
}

Norm::Norm(NormType type, int64_t channels, bool bias, double eps) : type_(type), eps_(eps) {
  parameter(weight_, "weight", {channels}, Init::ones());
  if (bias) parameter(bias_, "bias", {channels}, Init::zeros());
}

Var Norm::operator()(const Pass& pass, const Var& x, const Tensor& order) const {
  Var weight = operand(pass, weight_);
  if (type_ == NormType::rms_norm) return ops::rms_norm(x, weight, eps_, order);
  return ops::layer_norm(x, weight, operand(pass, bias_), eps_, order);
}

ops::Normed Norm::add(const Pass& pass, const Var& branch, const Var& residual, const Tensor& order) const {
  Var weight = operand(pass, weight_);
  if (type_ == NormType::rms_norm) return ops::add_rms_norm(branch, residual, weight, eps_, order);
  return ops::add_layer_norm(branch, residual, weight, operand(pass, bias_), eps_, order);
}

Mlp::Mlp(const Options& o)
    : activation_(o.activation),
      fused_(o.activation == Activation::gelu_tanh && !o.up_rank.rank && !o.down_rank.rank),
      epilogue_(o.epilogue),
      up_(o.channels, o.hidden, o.bias, o.init_std, o.up_rank),
      down_(o.hidden, o.channels, o.bias, o.out_init_std, o.down_rank) {
  if (epilogue_ && (o.up_rank.rank || o.down_rank.rank))
    throw core::Error({.where = "model.mlp_epilogue",
                       .expected = "an MLP of full rank",
                       .got = "model.mlp.up_rank or down_rank",
                       .remedy = "leave one of them out",
                       .code = core::ExitCode::usage});
  if (o.up_rank.rank && o.up_rank.bd) buffer(order_.buffer, "order", {o.channels});
  if (activation_ == Activation::swiglu) {
    gate_ = std::make_unique<Linear>(o.channels, o.hidden, o.bias, o.init_std, o.up_rank);
    child("gate", *gate_);
  }
  child("up", up_);
  child("down", down_);
}

Var Mlp::operator()(const Pass& pass, const Var& input, const Tensor& order) const {
  Var x = order ? input : order_(input);  // [B,T,C]
  if (fused_ && !pass.observe)
    return ops::gelu_mlp(x, operand(pass, up_.weight), operand(pass, up_.bias), operand(pass, down_.weight),
                         operand(pass, down_.bias), {epilogue_});
  if (gate_ && !pass.observe && gate_->full()) {
    auto h = ops::linear_group(x, {operand(pass, gate_->weight), operand(pass, up_.weight)},
                               {operand(pass, gate_->bias), operand(pass, up_.bias)});  // [B,T,F] twice
    return down_(pass, ops::swiglu(h[0], h[1]));                                        // [B,T,C]
  }
  Var h = up_(pass, x);  // [B,T,F]
  switch (activation_) {
    case Activation::swiglu:
      h = ops::swiglu((*gate_)(pass, x), h);
      break;
    case Activation::silu:
      h = ops::silu(h);
      break;
    case Activation::gelu_erf:
      h = ops::gelu_erf(h);
      break;
    case Activation::gelu_tanh:
      h = ops::gelu_tanh(h);
      break;
  }
  return down_(pass, h);  // [B,T,C]
}

}  // namespace basis::models
