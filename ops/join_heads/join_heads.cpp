// y_h = (a_h, b)        da_h = first part of dy_h        db = sum over the heads that share it of the second part
#include "ops/join_heads/join_heads.h"

#include "autograd/registry.h"

namespace basis::ops {

struct JoinHeads {
  static constexpr std::string_view name = "join_heads";
  struct Attrs {
    int64_t width = 0;  // R
    bool shared = true;
  };

  static Tensor forward(Context&, const Attrs& at, const Tensor& a, const Tensor& b) {
    require_float(a, name);
    require_float(b, name);
    require(a.dim() >= 2 && b.dim() == a.dim(), name, "a [..., H, N] and b [..., H or 1, R]",
            describe(a) + " and " + describe(b));
    Shape expected = a.shape(), shape = a.shape();
    if (at.shared) expected[a.dim() - 2] = 1;
    expected[a.dim() - 1] = at.width;
    require_shape(b, expected, a, name);
    shape[a.dim() - 1] += at.width;
    Tensor y = Tensor::empty(shape, a.dtype(), a.device());
    if (y.numel()) join_heads_forward(a.device().type, a.dtype(), rows(a), rows(b), rows(y));
    return y;
  }

  static Tensors backward(const Context& ctx, const Attrs& at, const Tensor& dy) {
    Tensor da, db;
    Shape first = dy.shape(), second = dy.shape();
    first[dy.dim() - 1] -= at.width, second[dy.dim() - 1] = at.width;
    if (at.shared) second[dy.dim() - 2] = 1;
    if (ctx.needs(0)) da = Tensor::empty(first, dy.dtype(), dy.device());
    if (ctx.needs(1)) db = Tensor::zeros(second, dy.dtype(), dy.device());
    if (dy.numel()) join_heads_backward(dy.device().type, dy.dtype(), rows(dy), da ? rows(da) : da, db ? rows(db) : db);
    return {da, db};
  }

  static std::vector<Sample<JoinHeads>> samples() {
    return {{.name = "shared", .attrs = {2, true}, .inputs = {{{2, 3, 4, 5}}, {{2, 3, 1, 2}}}, .reduction_length = 4},
            {.name = "own", .attrs = {2, false}, .inputs = {{{2, 3, 4, 3}}, {{2, 3, 4, 2}}}},
            {.name = "one head", .attrs = {1, true}, .inputs = {{{3, 1, 2}}, {{3, 1, 1}}}},
            {.name = "empty", .attrs = {3, true}, .inputs = {{{0, 2, 2}}, {{0, 1, 3}}}}};
  }
  static std::vector<ErrorSample<JoinHeads>> error_samples() {
    return {{"other tokens", {2, true}, {{{3, 2, 2}}, {{2, 1, 2}}}},
            {"other heads", {2, false}, {{{3, 4, 2}}, {{3, 2, 2}}}},
            {"vectors", {3, false}, {{{3}}, {{3}}}}};
  }

 private:
  static Tensor rows(const Tensor& x) {
    int64_t h = x.size(-2), d = x.size(-1);
    return x.view({x.numel() ? x.numel() / (h * d) : 0, h, d});
  }
};
REGISTER_OP(JoinHeads)

Var join_heads(const Var& a, const Var& b) {
  require(a.dim() >= 2 && b.dim() == a.dim(), JoinHeads::name, "a [..., H, N] and b [..., H or 1, R]",
          describe(a.value()) + " and " + describe(b.value()));
  return autograd::apply<JoinHeads>({b.size(-1), b.size(-2) == 1}, a, b);
}

}  // namespace basis::ops
