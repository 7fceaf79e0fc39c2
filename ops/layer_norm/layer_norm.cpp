// xhat = (x - mean x) rstd,  rstd = 1 / sqrt(var x + eps),  y = xhat w + b
// dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy w        dw = sum dy xhat        db = sum dy
// With the residual: s = x + r takes the place of x, and dx = dr = (the above at s) + ds.
// In an order of channels: y_j is the above's y_order[j], and dy_j its dy_order[j].
#include "ops/layer_norm/layer_norm.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {
namespace {

struct Statistics {
  Tensor mean, rstd;
};

DType statistics_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

Tensor rows(const Tensor& t) { return t ? t.view({t.size(-1) ? t.numel() / t.size(-1) : 0, t.size(-1)}) : t; }

void check(const Tensor& x, const Tensor& w, const Tensor& b, const NormAttrs& a, std::string_view name) {
  require_float(x, name);
  require(x.dim() >= 1 && x.size(-1) >= 1, name, "a last axis of at least 1", describe(x));
  require_shape(w, {x.size(-1)}, x, name);
  if (b) require_shape(b, {x.size(-1)}, x, name);
  check_order(a.order, x, name);
}

Statistics normalise(const Tensor& x, const Tensor& r, const Tensor& w, const Tensor& b, const NormAttrs& a,
                     const Tensor& y, const Tensor& sum) {
  int64_t n = x.numel() / x.size(-1);
  Statistics s{Tensor::empty({n}, statistics_dtype(x.dtype()), x.device()),
               Tensor::empty({n}, statistics_dtype(x.dtype()), x.device())};
  if (n) layer_norm_forward(x.device().type, x.dtype(), rows(x), rows(r), w, b, a, rows(y), rows(sum), s.mean, s.rstd);
  return s;
}

// {dx, dw, db}; saved are x (or the sum), w, mean, rstd.
Tensors gradients(const Context& ctx, const NormAttrs& a, const Tensor& dy, const Tensor& dsum, bool need_w,
                  bool need_b) {
  const Tensor &x = ctx.saved(0), &w = ctx.saved(1);
  Tensor dx = x.empty_like();
  auto vector = [&] { return Tensor::empty(w.shape(), statistics_dtype(w.dtype()), w.device()); };
  Tensor dw = need_w ? vector() : Tensor(), db = need_b ? vector() : Tensor();
  if (x.numel()) {
    layer_norm_backward(x.device().type, x.dtype(), rows(x), w, ctx.saved(2), ctx.saved(3), rows(dy), rows(dsum),
                        a.order, rows(dx), dw, db);
  } else {
    for (const Tensor& t : {dw, db})
      if (t) core::fill(t, 0);
  }
  return {dx, dw, db};
}

}  // namespace

struct LayerNorm {
  static constexpr std::string_view name = "layer_norm";
  using Attrs = NormAttrs;
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w, const Tensor& b) {
    check(x, w, b, a, name);
    Tensor y = x.empty_like();
    auto [mean, rstd] = normalise(x, {}, w, b, a, y, {});
    ctx.save({x, w, mean, rstd});
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    return gradients(ctx, a, dy, {}, ctx.needs(1), ctx.needs(2));
  }
  static std::vector<Sample<LayerNorm>> samples() {
    // Normalising by a small deviation amplifies the rounding of x by 1/std: factor 4 for unit-range inputs.
    return {
        {.name = "with bias", .inputs = {{{3, 5, 9}}, {{9}}, {{9}}}, .factor = 4, .reduction_length = 15},
        {.name = "no bias", .inputs = {{{7, 16}}, {{16}}, {.given = false}}, .factor = 4, .reduction_length = 16},
        {.name = "far from zero", .inputs = {{{4, 33}, 9, 11}, {{33}}, {{33}}}, .factor = 64, .reduction_length = 33},
        {.name = "one channel",
         .inputs = {{{5, 1}}, {{1}}, {{1}}},
         .factor = 1e3,
         .reduction_length = 5},  // variance 0: 1/sqrt(eps)
        {.name = "many rows", .inputs = {{{200, 3}}, {{3}}, {{3}}}, .factor = 64, .reduction_length = 200},
        {.name = "in an order",
         .attrs = {.order = some_order(16)},
         .inputs = {{{37, 16}}, {{16}}, {{16}}},
         .factor = 4,
         .reduction_length = 37},
        {.name = "wide in an order",
         .attrs = {.order = some_order(1102)},
         .inputs = {{{3, 1102}}, {{1102}}, {{1102}}},
         .factor = 4,
         .reduction_length = 1102},
        {.name = "odd width in an order",
         .attrs = {.order = some_order(9)},
         .inputs = {{{3, 5, 9}}, {{9}}, {.given = false}},
         .factor = 4,
         .reduction_length = 15},
        {.name = "no rows", .inputs = {{{0, 4}}, {{4}}, {{4}}}}};
  }
  static std::vector<ErrorSample<LayerNorm>> error_samples() {
    return {{"weight differs", {}, {{{3, 4}}, {{5}}, {.given = false}}},
            {"bias differs", {}, {{{3, 4}}, {{4}}, {{3}}}},
            {"order of another width", {.order = some_order(3)}, {{{3, 4}}, {{4}}, {{4}}}},
            {"no channels", {}, {{{3, 0}}, {{0}}, {{0}}}}};
  }
};
REGISTER_OP(LayerNorm)

struct AddLayerNorm {
  static constexpr std::string_view name = "add_layer_norm";
  using Attrs = NormAttrs;
  static std::array<Tensor, 2> forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& r, const Tensor& w,
                                       const Tensor& b) {
    check(x, w, b, a, name);
    require_shape(r, x.shape(), x, name);
    Tensor y = x.empty_like(), sum = x.empty_like();
    auto [mean, rstd] = normalise(x, r, w, b, a, y, sum);
    ctx.save({sum, w, mean, rstd});
    return {y, sum};
  }
  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy, const Tensor& dsum) {
    Tensors g = gradients(ctx, a, dy, dsum, ctx.needs(2), ctx.needs(3));
    return {g[0], g[0], g[1], g[2]};
  }
  static std::vector<Sample<AddLayerNorm>> samples() {
    return {
        {.name = "with bias", .inputs = {{{3, 5, 9}}, {{3, 5, 9}}, {{9}}, {{9}}}, .factor = 4, .reduction_length = 15},
        {.name = "no bias",
         .inputs = {{{7, 16}}, {{7, 16}}, {{16}}, {.given = false}},
         .factor = 4,
         .reduction_length = 16},
        {.name = "one row", .inputs = {{{1, 6}}, {{1, 6}}, {{6}}, {{6}}}, .factor = 4, .reduction_length = 6},
        {.name = "in an order",
         .attrs = {.order = some_order(24)},
         .inputs = {{{2, 9, 24}}, {{2, 9, 24}}, {{24}}, {{24}}},
         .factor = 4,
         .reduction_length = 24},
        {.name = "no rows", .inputs = {{{0, 4}}, {{0, 4}}, {{4}}, {{4}}}}};
  }
  static std::vector<ErrorSample<AddLayerNorm>> error_samples() {
    return {{"residual differs", {}, {{{3, 4}}, {{4, 3}}, {{4}}, {.given = false}}}};
  }
};
REGISTER_OP(AddLayerNorm)

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps, const Tensor& order) {
  return autograd::apply<LayerNorm>({eps, order}, x, weight, bias);
}

Normed add_layer_norm(const Var& x, const Var& residual, const Var& weight, const Var& bias, double eps,
                      const Tensor& order) {
  auto out = autograd::apply_all<AddLayerNorm>({eps, order}, {x, residual, weight, bias});
  return {out[0], out[1]};
}

}  // namespace basis::ops
