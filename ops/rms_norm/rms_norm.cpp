// xhat = x rstd,  rstd = 1 / sqrt(mean(x^2) + eps),  y = xhat w
// dx = rstd (g - xhat mean(g xhat)) with g = dy w        dw = sum dy xhat
// With the residual: s = x + r takes the place of x, and dx = dr = (the above at s) + ds.
// In an order of channels: y_j is the above's y_order[j], and dy_j its dy_order[j].
#include "ops/rms_norm/rms_norm.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {
namespace {

Tensor rows(const Tensor& t) { return t ? t.view({t.size(-1) ? t.numel() / t.size(-1) : 0, t.size(-1)}) : t; }

Tensor normalise(const Tensor& x, const Tensor& r, const Tensor& w, const NormAttrs& a, const Tensor& y,
                 const Tensor& sum, std::string_view name) {
  require_float(x, name);
  require(x.dim() >= 1 && x.size(-1) >= 1, name, "a last axis of at least 1", describe(x));
  require_shape(w, {x.size(-1)}, x, name);
  if (r) require_shape(r, x.shape(), x, name);
  check_order(a.order, x, name);
  int64_t n = x.numel() / x.size(-1);
  Tensor rstd = Tensor::empty({n}, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device());
  if (n) rms_norm_forward(x.device().type, x.dtype(), rows(x), rows(r), w, a, rows(y), rows(sum), rstd);
  return rstd;
}

// {dx, dw}; saved are x (or the sum), w, rstd.
Tensors gradients(const Context& ctx, const NormAttrs& a, const Tensor& dy, const Tensor& dsum, bool need_w) {
  const Tensor &x = ctx.saved(0), &w = ctx.saved(1);
  Tensor dx = x.empty_like(),
         dw = need_w ? Tensor::empty(w.shape(), w.dtype() == DType::f64 ? DType::f64 : DType::f32, w.device())
                     : Tensor();
  if (x.numel())
    rms_norm_backward(x.device().type, x.dtype(), rows(x), w, ctx.saved(2), rows(dy), rows(dsum), a.order, rows(dx),
                      dw);
  else if (dw)
    core::fill(dw, 0);
  return {dx, dw};
}

}  // namespace

struct RmsNorm {
  static constexpr std::string_view name = "rms_norm";
  using Attrs = NormAttrs;
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    Tensor y = x.empty_like();
    ctx.save({x, w, normalise(x, {}, w, a, y, {}, name)});
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    return gradients(ctx, a, dy, {}, ctx.needs(1));
  }
  static std::vector<Sample<RmsNorm>> samples() {
    return {
        {.name = "matrix", .inputs = {{{3, 5, 9}}, {{9}}}, .factor = 4, .reduction_length = 15},
        {.name = "many rows", .inputs = {{{200, 3}}, {{3}}}, .factor = 16, .reduction_length = 200},
        {.name = "one channel", .attrs = {.eps = 0.5}, .inputs = {{{5, 1}}, {{1}}}, .factor = 4, .reduction_length = 5},
        {.name = "in an order",
         .attrs = {.order = some_order(16)},
         .inputs = {{{37, 16}}, {{16}}},
         .factor = 4,
         .reduction_length = 37},
        {.name = "wide in an order",
         .attrs = {.order = some_order(1102)},
         .inputs = {{{3, 1102}}, {{1102}}},
         .factor = 4,
         .reduction_length = 1102},
        {.name = "odd width in an order",
         .attrs = {.order = some_order(9)},
         .inputs = {{{3, 5, 9}}, {{9}}},
         .factor = 4,
         .reduction_length = 15},
        {.name = "no rows", .inputs = {{{0, 4}}, {{4}}}}};
  }
  static std::vector<ErrorSample<RmsNorm>> error_samples() {
    return {{"weight differs", {}, {{{3, 4}}, {{5}}}},
            {"order of another width", {.order = some_order(3)}, {{{3, 4}}, {{4}}}},
            {"no channels", {}, {{{3, 0}}, {{0}}}}};
  }
};
REGISTER_OP(RmsNorm)

struct AddRmsNorm {
  static constexpr std::string_view name = "add_rms_norm";
  using Attrs = NormAttrs;
  static std::array<Tensor, 2> forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& r,
                                       const Tensor& w) {
    require(r.defined(), name, "a residual", "none");
    Tensor y = x.empty_like(), sum = x.empty_like();
    ctx.save({sum, w, normalise(x, r, w, a, y, sum, name)});
    return {y, sum};
  }
  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy, const Tensor& dsum) {
    Tensors g = gradients(ctx, a, dy, dsum, ctx.needs(2));
    return {g[0], g[0], g[1]};
  }
  static std::vector<Sample<AddRmsNorm>> samples() {
    return {{.name = "matrix", .inputs = {{{3, 5, 9}}, {{3, 5, 9}}, {{9}}}, .factor = 4, .reduction_length = 15},
            {.name = "one row", .inputs = {{{1, 6}}, {{1, 6}}, {{6}}}, .factor = 4, .reduction_length = 6},
            {.name = "in an order",
             .attrs = {.order = some_order(24)},
             .inputs = {{{2, 9, 24}}, {{2, 9, 24}}, {{24}}},
             .factor = 4,
             .reduction_length = 24},
            {.name = "no rows", .inputs = {{{0, 4}}, {{0, 4}}, {{4}}}}};
  }
  static std::vector<ErrorSample<AddRmsNorm>> error_samples() {
    return {{"residual differs", {}, {{{3, 4}}, {{4, 3}}, {{4}}}}};
  }
};
REGISTER_OP(AddRmsNorm)

Var rms_norm(const Var& x, const Var& weight, double eps, const Tensor& order) {
  return autograd::apply<RmsNorm>({eps, order}, x, weight);
}

Normed add_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps, const Tensor& order) {
  auto out = autograd::apply_all<AddRmsNorm>({eps, order}, {x, residual, weight});
  return {out[0], out[1]};
}

}  // namespace basis::ops
