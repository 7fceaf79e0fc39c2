// y_c = exp(x_c - max x) / Z,  Z = sum_c exp(x_c - max x)        dx = y * (dy - <y, dy>)
#include "ops/softmax/softmax.h"

#include "autograd/registry.h"

namespace basis::ops {

struct Softmax {
  static constexpr std::string_view name = "softmax";
  struct Attrs {};

  static Tensor forward(Context& ctx, const Attrs&, const Tensor& x) {
    require_float(x, name);
    require(x.dim() >= 1 && x.size(-1) >= 1, name, "a last axis of at least 1", describe(x));
    Tensor y = x.empty_like();
    if (x.numel()) softmax_forward(x.device().type, x.dtype(), x, y);
    ctx.save({y});
    return y;
  }

  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    const Tensor& y = ctx.saved(0);
    Tensor dx = y.empty_like();
    if (y.numel()) softmax_backward(y.device().type, y.dtype(), y, dy, dx);
    return {dx};
  }

  static std::vector<Sample<Softmax>> samples() {
    return {
        {.name = "rows", .inputs = {{{3, 17}}}, .reduction_length = 17},
        {.name = "wide range", .inputs = {{{2, 5, 33}, -20, 20}}, .reduction_length = 33},
        {.name = "one class", .inputs = {{{4, 1}}}},
        {.name = "long row", .inputs = {{{1, 1025}}}, .reduction_length = 1025},
        {.name = "no rows", .inputs = {{{0, 8}}}},
    };
  }
  static std::vector<ErrorSample<Softmax>> error_samples() {
    return {{"scalar", {}, {{{}}}}, {"empty axis", {}, {{{3, 0}}}}};
  }
};
REGISTER_OP(Softmax)

Var softmax(const Var& x) { return autograd::apply<Softmax>({}, x); }

}  // namespace basis::ops
