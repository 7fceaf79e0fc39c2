// y = g x,  g = 2 / (1 + e^-s)        dx = g dy,  ds = g (1 - g / 2) (x . dy)
#include "ops/row_gate/row_gate.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {

struct RowGate {
  static constexpr std::string_view name = "row_gate";
  struct Attrs {};

  static Tensor forward(Context& ctx, const Attrs&, const Tensor& x, const Tensor& score) {
    require_float(x, name);
    Shape rows;
    for (int axis = 0; axis + 1 < x.dim(); ++axis) rows.push_back(x.size(axis));
    bool ok = score.defined() && x.dim() >= 1 && score.dtype() == x.dtype() && score.device() == x.device() &&
              score.shape() == rows;
    require(ok, name, "x [..., D] and score [...] of one dtype", describe(x) + ", " + describe(score));
    Tensor y = x.empty_like();
    if (x.numel()) row_gate_forward(x.device().type, x.dtype(), x, score, y);
    ctx.save({x, score});
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    const Tensor &x = ctx.saved(0), &score = ctx.saved(1);
    Tensor dx = x.empty_like(), dscore = score.empty_like();
    if (x.numel())
      row_gate_backward(x.device().type, x.dtype(), x, score, dy, dx, dscore);
    else
      core::fill(dscore, 0);
    return {dx, dscore};
  }

  static std::vector<Sample<RowGate>> samples() {
    return {{.name = "heads", .attrs = {}, .inputs = {{{2, 3, 2, 6}}, {{2, 3, 2}}}, .reduction_length = 6},
            {.name = "wide", .attrs = {}, .inputs = {{{5, 130}}, {{5}, -4, 4}}, .reduction_length = 130},
            {.name = "one", .attrs = {}, .inputs = {{{1, 1}}, {{1}}}},
            {.name = "empty", .attrs = {}, .inputs = {{{0, 4}}, {{0}}}}};
  }
  static std::vector<ErrorSample<RowGate>> error_samples() {
    return {{"a score for each column", {}, {{{2, 3}}, {{3}}}}, {"one axis more", {}, {{{2, 3}}, {{2, 3}}}}};
  }
};
REGISTER_OP(RowGate)

Var row_gate(const Var& x, const Var& score) { return autograd::apply<RowGate>({}, x, score); }

}  // namespace basis::ops
