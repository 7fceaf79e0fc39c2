// y = x W^T + b        dx = dy W        dW = dy^T x        db = sum of dy over rows
// dW and db leave in the f32 that they are summed in, as the masters of 16-bit weights want them.
#include "ops/linear/linear.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"
#include "core/gemm/gemm.h"

namespace basis::ops {

struct Linear {
  static constexpr std::string_view name = "linear";
  struct Attrs {};

  static Tensor forward(Context& ctx, const Attrs&, const Tensor& x, const Tensor& w, const Tensor& b) {
    require_float(x, name);
    require(w.defined() && w.dim() == 2 && x.dim() >= 1 && x.size(-1) == w.size(1) && w.dtype() == x.dtype(), name,
            "x [..., in] and weight [out, in] of one dtype", describe(x) + " and " + describe(w));
    if (b) require_shape(b, {w.size(0)}, x, name);
    Shape shape = x.shape();
    shape[x.dim() - 1] = w.size(0);
    Tensor y = Tensor::empty(shape, x.dtype(), x.device());
    core::matmul(rows(x), false, w, true, rows(y), 0, b);
    ctx.save({ctx.needs(1) ? x : Tensor(), ctx.needs(0) ? w : Tensor()});
    return y;
  }

  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    const Tensor &x = ctx.saved(0), &w = ctx.saved(1);
    Tensor dx, dw, db;
    if (ctx.needs(0)) {
      Shape shape = dy.shape();
      shape[dy.dim() - 1] = w.size(1);
      dx = Tensor::empty(shape, dy.dtype(), dy.device());
      core::matmul(rows(dy), false, w, false, rows(dx));
    }
    if (ctx.needs(1)) {
      dw = Tensor::empty({dy.size(-1), x.size(-1)}, wide(dy.dtype()), dy.device());
      core::matmul(rows(dy), true, rows(x), false, dw);
    }
    if (ctx.needs(2)) {
      db = Tensor::empty({dy.size(-1)}, wide(dy.dtype()), dy.device());
      if (dy.numel())
        column_sum(dy.device().type, dy.dtype(), rows(dy), db);
      else
        core::fill(db, 0);
    }
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

 private:
  static DType wide(DType t) { return t == DType::f64 ? t : DType::f32; }
  static Tensor rows(const Tensor& t) {
    int64_t c = t.size(-1), n = 1;
    for (int i = 0; i + 1 < t.dim(); ++i) n *= t.size(i);
    return t.view({n, c});
  }
};
REGISTER_OP(Linear)

Var linear(const Var& x, const Var& weight, const Var& bias) { return autograd::apply<Linear>({}, x, weight, bias); }

}  // namespace basis::ops
