// xhat = x rstd,  rstd = 1 / sqrt(mean(x^2) + eps),  y = xhat w
// dx = rstd (g - xhat mean(g xhat)) with g = dy w        dw = sum dy xhat
// With the residual: s = x + r takes the place of x, and dx = dr = (the above at s) + ds.
#include "ops/rms_norm/rms_norm.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {
namespace {

Tensor rows(const Tensor& t) { return t ? t.view({t.size(-1) ? t.numel() / t.size(-1) : 0, t.size(-1)}) : t; }

Tensor normalise(const Tensor& x, const Tensor& r, const Tensor& w, double eps, const Tensor& y, const Tensor& sum,
                 std::string_view name) {
  require_float(x, name);
  require(x.dim() >= 1 && x.size(-1) >= 1, name, "a last axis of at least 1", describe(x));
  require_shape(w, {x.size(-1)}, x, name);
  if (r) require_shape(r, x.shape(), x, name);
  int64_t n = x.numel() / x.size(-1);
  Tensor rstd = Tensor::empty({n}, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device());
  if (n) rms_norm_forward(x.device().type, x.dtype(), rows(x), rows(r), w, eps, rows(y), rows(sum), rstd);
  return rstd;
}

// {dx, dw}; saved are x (or the sum), w, rstd.
Tensors gradients(const Context& ctx, const Tensor& dy, const Tensor& dsum, bool need_w) {
  const Tensor &x = ctx.saved(0), &w = ctx.saved(1);
  Tensor dx = x.empty_like(),
         dw = need_w ? Tensor::empty(w.shape(), w.dtype() == DType::f64 ? DType::f64 : DType::f32, w.device())
                     : Tensor();
  if (x.numel())
    rms_norm_backward(x.device().type, x.dtype(), rows(x), w, ctx.saved(2), rows(dy), rows(dsum), rows(dx), dw);
  else if (dw)
    core::fill(dw, 0);
  return {dx, dw};
}

}  // namespace

struct RmsNorm {
  static constexpr std::string_view name = "rms_norm";
  struct Attrs {
    double eps = 1e-5;
  };
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    Tensor y = x.empty_like();
    ctx.save({x, w, normalise(x, {}, w, a.eps, y, {}, name)});
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    return gradients(ctx, dy, {}, ctx.needs(1));
  }
  static std::vector<Sample<RmsNorm>> samples() {
    return {{.name = "matrix", .inputs = {{{3, 5, 9}}, {{9}}}, .factor = 4, .reduction_length = 15},
            {.name = "many rows", .inputs = {{{200, 3}}, {{3}}}, .factor = 16, .reduction_length = 200},
            {.name = "one channel", .attrs = {0.5}, .inputs = {{{5, 1}}, {{1}}}, .factor = 4, .reduction_length = 5},
            {.name = "no rows", .inputs = {{{0, 4}}, {{4}}}}};
  }
  static std::vector<ErrorSample<RmsNorm>> error_samples() {
    return {{"weight differs", {}, {{{3, 4}}, {{5}}}}, {"no channels", {}, {{{3, 0}}, {{0}}}}};
  }
};
REGISTER_OP(RmsNorm)

struct AddRmsNorm {
  static constexpr std::string_view name = "add_rms_norm";
  struct Attrs {
    double eps = 1e-5;
  };
  static std::array<Tensor, 2> forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& r,
                                       const Tensor& w) {
    require(r.defined(), name, "a residual", "none");
    Tensor y = x.empty_like(), sum = x.empty_like();
    ctx.save({sum, w, normalise(x, r, w, a.eps, y, sum, name)});
    return {y, sum};
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy, const Tensor& dsum) {
    Tensors g = gradients(ctx, dy, dsum, ctx.needs(2));
    return {g[0], g[0], g[1]};
  }
  static std::vector<Sample<AddRmsNorm>> samples() {
    return {{.name = "matrix", .inputs = {{{3, 5, 9}}, {{3, 5, 9}}, {{9}}}, .factor = 4, .reduction_length = 15},
            {.name = "one row", .inputs = {{{1, 6}}, {{1, 6}}, {{6}}}, .factor = 4, .reduction_length = 6},
            {.name = "no rows", .inputs = {{{0, 4}}, {{0, 4}}, {{4}}}}};
  }
  static std::vector<ErrorSample<AddRmsNorm>> error_samples() {
    return {{"residual differs", {}, {{{3, 4}}, {{4, 3}}, {{4}}}}};
  }
};
REGISTER_OP(AddRmsNorm)

Var rms_norm(const Var& x, const Var& weight, double eps) { return autograd::apply<RmsNorm>({eps}, x, weight); }

Normed add_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps) {
  auto out = autograd::apply_all<AddRmsNorm>({eps}, {x, residual, weight});
  return {out[0], out[1]};
}

}  // namespace basis::ops
