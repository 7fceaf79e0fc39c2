// p = x W1^T + b1,  h = gelu(p),  y = h W2^T + b2
// dW2 = dy^T h,  db2 = sum dy,  dp = (dy W2) gelu'(p),  dW1 = dp^T x,  db1 = sum dp,  dx = dp W1
#include "ops/gelu_mlp/gelu_mlp.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"
#include "core/gemm/gemm.h"
#include "ops/common/column_sum.h"

namespace basis::ops {

struct GeluMlp {
  static constexpr std::string_view name = "gelu_mlp";
  using Attrs = GeluMlpOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& up, const Tensor& up_bias,
                        const Tensor& down, const Tensor& down_bias) {
    require_float(x, name);
    bool matrices = up.defined() && down.defined() && up.dim() == 2 && down.dim() == 2 && x.dim() >= 1 &&
                    up.dtype() == x.dtype() && down.dtype() == x.dtype();
    require(matrices && x.size(-1) == up.size(1) && up.size(0) == down.size(1), name,
            "x [..., C], up [F, C] and down [C', F] of one dtype",
            describe(x) + ", " + describe(up) + " and " + describe(down));
    require(up_bias.defined() == down_bias.defined(), name, "both biases or none", "one");
    if (up_bias) require_shape(up_bias, {up.size(0)}, x, name), require_shape(down_bias, {down.size(0)}, x, name);
    Tensor in = rows(x), pre = like(x, {in.size(0), up.size(0)}), hidden = pre.empty_like();
    if (pre.numel()) gelu_mlp_up(x.device().type, x.dtype(), a, in, up, up_bias, pre, hidden);
    Shape shape = x.shape();
    shape[x.dim() - 1] = down.size(0);
    Tensor y = like(x, shape);
    core::matmul(hidden, false, down, true, rows(y), 0, down_bias);
    ctx.save({x, up, down, pre, hidden, up_bias});
    return y;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    const Tensor &x = ctx.saved(0), &up = ctx.saved(1), &down = ctx.saved(2), &pre = ctx.saved(3);
    Tensor dout = rows(dy), dx, dup, dup_bias, ddown, ddown_bias;
    if (ctx.needs(3)) core::matmul(dout, true, ctx.saved(4), false, ddown = wide_like(dy, down.shape()));
    if (ctx.needs(4)) sum_rows(dout, ddown_bias = wide_like(dy, {down.size(0)}));
    if (!ctx.needs(0) && !ctx.needs(1) && !ctx.needs(2)) return {dx, dup, dup_bias, ddown, ddown_bias};
    Tensor dpre = pre.empty_like();
    if (ctx.needs(2)) dup_bias = a.epilogue ? like(dy, {up.size(0)}) : wide_like(dy, {up.size(0)});
    if (pre.numel())
      gelu_mlp_down_backward(dy.device().type, dy.dtype(), a, dout, down, pre, ctx.saved(5), dpre, dup_bias);
    else if (dup_bias)
      core::fill(dup_bias, 0);
    if (ctx.needs(0)) core::matmul(dpre, false, up, false, rows(dx = like(dy, x.shape())));
    if (ctx.needs(1)) core::matmul(dpre, true, rows(x), false, dup = wide_like(dy, up.shape()));
    return {dx, dup, dup_bias, ddown, ddown_bias};
  }

  static std::vector<Sample<GeluMlp>> samples() {
    return {
        {.name = "with biases",
         .inputs = {{{2, 3, 5}}, {{7, 5}}, {{7}}, {{4, 7}}, {{4}}},
         .factor = 4,
         .reduction_length = 8},
        {.name = "no biases",
         .inputs = {{{6, 4}}, {{5, 4}}, {.given = false}, {{3, 5}}, {.given = false}},
         .factor = 4,
         .reduction_length = 6},
        {.name = "widths of eight",
         .inputs = {{{40, 16}}, {{32, 16}}, {{32}}, {{16, 32}}, {{16}}},
         .factor = 4,
         .reduction_length = 40},
        {.name = "epilogue",
         .attrs = {.epilogue = true},
         .inputs = {{{40, 16}}, {{32, 16}}, {{32}}, {{16, 32}}, {{16}}},
         .factor = 4,
         .reduction_length = 40},
        {.name = "many rows",
         .inputs = {{{300, 16}}, {{264, 16}}, {{264}}, {{16, 264}}, {{16}}},
         .factor = 4,
         .reduction_length = 300},
        {.name = "one", .inputs = {{{1}}, {{1, 1}}, {{1}}, {{1, 1}}, {{1}}}, .factor = 4},
        {.name = "no rows", .inputs = {{{0, 3}}, {{2, 3}}, {{2}}, {{3, 2}}, {{3}}}},
    };
  }
  static std::vector<ErrorSample<GeluMlp>> error_samples() {
    return {{"width differs", {}, {{{2, 5}}, {{3, 4}}, {{3}}, {{4, 3}}, {{4}}}},
            {"hidden width differs", {}, {{{2, 4}}, {{3, 4}}, {{3}}, {{4, 2}}, {{4}}}},
            {"one bias", {}, {{{2, 4}}, {{3, 4}}, {{3}}, {{4, 3}}, {.given = false}}}};
  }

 private:
  // Gradients of weights and biases leave in f32 (f64 for f64), as the masters of 16-bit weights want them.
  static Tensor wide_like(const Tensor& x, const Shape& shape) {
    return Tensor::empty(shape, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device());
  }
  static Tensor like(const Tensor& x, const Shape& shape) { return Tensor::empty(shape, x.dtype(), x.device()); }
  static Tensor rows(const Tensor& t) {
    int64_t n = 1;
    for (int i = 0; i + 1 < t.dim(); ++i) n *= t.size(i);
    return t.view({n, t.size(-1)});
  }
  static void sum_rows(const Tensor& x, const Tensor& out) {
    if (x.numel())
      column_sum(x.device().type, x.dtype(), x, out);
    else
      core::fill(out, 0);
  }
};
REGISTER_OP(GeluMlp)

Var gelu_mlp(const Var& x, const Var& up, const Var& up_bias, const Var& down, const Var& down_bias,
             const GeluMlpOptions& options) {
  return autograd::apply<GeluMlp>(options, x, up, up_bias, down, down_bias);
}

}  // namespace basis::ops
