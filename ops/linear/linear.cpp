// y = x W^T + b        dx = dy W        dW = dy^T x        db = sum of dy over rows
#include "ops/linear/linear.h"

#include "autograd/registry.h"
#include "ops/linear/parts.h"

namespace basis::ops {

struct Linear {
  static constexpr std::string_view name = "linear";
  struct Attrs {};

  static Tensor forward(Context& ctx, const Attrs&, const Tensor& x, const Tensor& w, const Tensor& b) {
    affine::check(x, w, b, name);
    ctx.save({ctx.needs(1) ? x : Tensor(), ctx.needs(0) ? w : Tensor()});
    return affine::product(x, w, b);
  }

  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    Tensor dx, dw, db;
    if (ctx.needs(0)) affine::add_input_gradient(dy, ctx.saved(1), dx);
    if (ctx.needs(1)) dw = affine::weight_gradient(dy, ctx.saved(0));
    if (ctx.needs(2)) db = affine::bias_gradient(dy);
    return {dx, dw, db};
  }

  static std::vector<Sample<Linear>> samples() {
    return {
        {.name = "with bias", .inputs = {{{2, 5, 7}}, {{3, 7}}, {{3}}}, .reduction_length = 10},
        {.name = "no bias", .inputs = {{{9, 4}}, {{6, 4}}, {.given = false}}, .reduction_length = 9},
        {.name = "many rows", .inputs = {{{300, 3}}, {{2, 3}}, {{2}}}, .reduction_length = 300},
        {.name = "one by one", .inputs = {{{1, 1}}, {{1, 1}}, {{1}}}},
        {.name = "no rows", .inputs = {{{0, 3}}, {{2, 3}}, {{2}}}},
        {.name = "vector", .inputs = {{{8}}, {{5, 8}}, {{5}}}, .reduction_length = 8},
    };
  }
  static std::vector<ErrorSample<Linear>> error_samples() {
    return {{"width differs", {}, {{{2, 5}}, {{3, 4}}, {.given = false}}},
            {"bias differs", {}, {{{2, 5}}, {{3, 5}}, {{4}}}},
            {"weight not a matrix", {}, {{{2, 5}}, {{5}}, {.given = false}}}};
  }
};
REGISTER_OP(Linear)

Var linear(const Var& x, const Var& weight, const Var& bias) { return autograd::apply<Linear>({}, x, weight, bias); }

}  // namespace basis::ops
