// C = op(A) op(B)        d op(A) = dC op(B)^T        d op(B) = op(A)^T dC; a transposed operand gets the transpose
#include "ops/matmul/matmul.h"

#include "autograd/registry.h"
#include "core/gemm/gemm.h"

namespace basis::ops {

struct Matmul {
  static constexpr std::string_view name = "matmul";
  struct Attrs {
    bool trans_a = false, trans_b = false;
  };

  static Tensor forward(Context& ctx, const Attrs& at, const Tensor& a, const Tensor& b) {
    require_float(a, name);
    bool ok = b.defined() && a.dim() >= 2 && a.dim() == b.dim() && a.dtype() == b.dtype() &&
              a.size(at.trans_a ? -2 : -1) == b.size(at.trans_b ? -1 : -2);
    for (int i = 0; ok && i + 2 < a.dim(); ++i) ok = a.size(i) == b.size(i);
    require(ok, name, "a [..., m, k] and b [..., k, n]", describe(a) + " and " + describe(b));
    ctx.save({a, b});
    return product(a, at.trans_a, b, at.trans_b);
  }

  static Tensors backward(const Context& ctx, const Attrs& at, const Tensor& dc) {
    const Tensor &a = ctx.saved(0), &b = ctx.saved(1);
    Tensor da, db;
    if (ctx.needs(0)) da = at.trans_a ? product(b, at.trans_b, dc, true) : product(dc, false, b, !at.trans_b);
    if (ctx.needs(1)) db = at.trans_b ? product(dc, true, a, at.trans_a) : product(a, !at.trans_a, dc, false);
    return {da, db};
  }

  static std::vector<Sample<Matmul>> samples() {
    return {
        {.name = "plain", .attrs = {}, .inputs = {{{3, 4}}, {{4, 5}}}, .reduction_length = 5},
        {.name = "batched a^T",
         .attrs = {true, false},
         .inputs = {{{2, 3, 4, 2}}, {{2, 3, 4, 5}}},
         .reduction_length = 5},
        {.name = "batched b^T", .attrs = {false, true}, .inputs = {{{6, 3, 4}}, {{6, 5, 4}}}, .reduction_length = 5},
        {.name = "both", .attrs = {true, true}, .inputs = {{{2, 4, 3}}, {{2, 5, 4}}}, .reduction_length = 5},
        {.name = "one element", .attrs = {}, .inputs = {{{1, 1}}, {{1, 1}}}},
        {.name = "empty sum", .attrs = {}, .inputs = {{{3, 0}}, {{0, 2}}}},
        {.name = "empty", .attrs = {}, .inputs = {{{0, 3, 2}}, {{0, 2, 4}}}}};
  }
  static std::vector<ErrorSample<Matmul>> error_samples() {
    return {{"inner extents", {}, {{{3, 4}}, {{3, 4}}}},
            {"batch extents", {}, {{{2, 3, 4}}, {{3, 4, 5}}}},
            {"vector", {}, {{{4}}, {{4}}}}};
  }

 private:
  static Tensor product(const Tensor& a, bool ta, const Tensor& b, bool tb) {
    Shape shape = a.shape();
    shape[a.dim() - 2] = a.size(ta ? -1 : -2);
    shape[a.dim() - 1] = b.size(tb ? -2 : -1);
    Tensor c = Tensor::empty(shape, a.dtype(), a.device());
    core::Gemm g{.trans_a = ta, .trans_b = tb, .m = c.size(-2), .n = c.size(-1), .k = a.size(ta ? -2 : -1)};
    g.lda = a.size(-1), g.ldb = b.size(-1), g.ldc = c.size(-1);
    g.stride_a = a.size(-2) * a.size(-1), g.stride_b = b.size(-2) * b.size(-1), g.stride_c = g.m * g.n;
    g.batch = g.stride_c ? c.numel() / g.stride_c : 0;
    g.a = a.raw(), g.b = b.raw(), g.c = c.raw();
    core::gemm(g, c.dtype(), c.device());
    return c;
  }
};
REGISTER_OP(Matmul)

Var matmul(const Var& a, const Var& b, bool trans_a, bool trans_b) {
  return autograd::apply<Matmul>({trans_a, trans_b}, a, b);
}

}  // namespace basis::ops
