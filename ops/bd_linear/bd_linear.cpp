// y[:, h] = x[:, S] + x[:, R] C_h      dx[:, S] = sum over h of dy[:, h]      dx[:, R] = dy C^T      dC = x[:, R]^T dy
#include "ops/bd_linear/bd_linear.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"
#include "core/gemm/gemm.h"
#include "ops/bd_linear/bd_weights.h"

namespace basis::ops {

struct BdLinear {
  static constexpr std::string_view name = "bd_linear";
  using Attrs = BdOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    require_float(x, name);
    require(x.dim() >= 1 && a.head_dim > 0 && x.size(-1) > a.head_dim, name, "x [..., d] with d > head_dim > 0",
            describe(x) + " and head_dim " + std::to_string(a.head_dim));
    require(w.defined() && w.dim() == 2 && w.size(1) == x.size(-1) - a.head_dim && w.size(0) % a.head_dim == 0, name,
            "weight [heads * head_dim, d - head_dim]", describe(w) + " for x " + describe(x));
    require_shape(w, w.shape(), x, name);
    Shape shape = x.shape();
    shape[x.dim() - 1] = w.size(0);
    Tensor y = Tensor::empty(shape, x.dtype(), x.device()), rx = rows(x), ry = rows(y);
    if (y.numel() && !fused(bd_fused_forward, rx, w, a, ry)) {
      bd_repeat(x.device().type, x.dtype(), rx, a, ry);
      core::gemm({.trans_b = true,
                  .m = rx.size(0),
                  .n = w.size(0),
                  .k = w.size(1),
                  .a = rest(rx, a),
                  .b = w.raw(),
                  .c = y.raw(),
                  .lda = rx.size(1),
                  .ldb = w.size(1),
                  .ldc = w.size(0),
                  .beta = 1},
                 x.dtype(), x.device());
    }
    ctx.save({ctx.needs(1) ? x : Tensor(), ctx.needs(0) ? w : Tensor()});
    return y;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    const Tensor &x = ctx.saved(0), &w = ctx.saved(1);
    Tensor dx, dw, ry = rows(dy);
    if (ctx.needs(0)) {
      Shape shape = dy.shape();
      shape[dy.dim() - 1] = w.size(1) + a.head_dim;
      dx = Tensor::empty(shape, dy.dtype(), dy.device());
      Tensor rx = rows(dx);
      if (!dy.numel()) {
        core::fill(dx, 0);
      } else if (is_written_out(ry, w, a)) {
        core::matmul(ry, false, written_out(w, a), false, rx);
      } else if (!fused(bd_fused_backward, ry, w, a, rx)) {
        bd_sum_heads(dy.device().type, dy.dtype(), ry, a, rx);
        core::gemm({.m = ry.size(0),
                    .n = w.size(1),
                    .k = w.size(0),
                    .a = ry.raw(),
                    .b = w.raw(),
                    .c = rest(rx, a),
                    .lda = w.size(0),
                    .ldb = w.size(1),
                    .ldc = rx.size(1)},
                   dy.dtype(), dy.device());
      }
    }
    if (ctx.needs(1)) {
      Tensor rx = rows(x);
      dw = Tensor::empty({dy.size(-1), rx.size(1) - a.head_dim}, dy.dtype(), dy.device());
      if (!dy.numel())
        core::fill(dw, 0);
      else
        core::gemm({.trans_a = true,
                    .m = dw.size(0),
                    .n = dw.size(1),
                    .k = ry.size(0),
                    .a = ry.raw(),
                    .b = rest(rx, a),
                    .c = dw.raw(),
                    .lda = ry.size(1),
                    .ldb = rx.size(1),
                    .ldc = dw.size(1)},
                   dy.dtype(), dy.device());
    }
    return {dx, dw};
  }

  static std::vector<Sample<BdLinear>> samples() {
    return {
        {.name = "front", .attrs = {.head_dim = 3}, .inputs = {{{2, 4, 8}}, {{6, 5}}}, .reduction_length = 8},
        {.name = "back", .attrs = {.head_dim = 2, .slice_at_back = true}, .inputs = {{{5, 7}}, {{6, 5}}}},
        {.name = "one head", .attrs = {.head_dim = 4}, .inputs = {{{3, 5}}, {{4, 1}}}},
        {.name = "vector", .attrs = {.head_dim = 2}, .inputs = {{{6}}, {{4, 4}}}},
        {.name = "tiles",
         .attrs = {.head_dim = 64, .slice_at_back = true},
         .inputs = {{{9, 160}}, {{192, 96}}},
         .reduction_length = 192},
        {.name = "no rows", .attrs = {.head_dim = 2}, .inputs = {{{0, 6}}, {{4, 4}}}},
        {.name = "no heads", .attrs = {.head_dim = 2}, .inputs = {{{3, 6}}, {{0, 4}}}},
    };
  }
  static std::vector<ErrorSample<BdLinear>> error_samples() {
    return {{"width differs", {.head_dim = 2}, {{{2, 6}}, {{4, 5}}}},
            {"part of a head", {.head_dim = 4}, {{{2, 6}}, {{6, 2}}}},
            {"nothing beside the slice", {.head_dim = 6}, {{{2, 6}}, {{6, 0}}}},
            {"no head_dim", {}, {{{2, 6}}, {{4, 6}}}}};
  }

 private:
  // dx by one product with [I | C], where the sums over heads, in a pass of their own or in the fused kernel's few
  // steps, cost more than C saves.
  static bool is_written_out(const Tensor& dy, const Tensor& w, const Attrs& a) {
    constexpr int64_t kFewColumns = 4096;
    if (bd_path != BdPath::automatic) return bd_path == BdPath::written_out;
    return dy.device().is_cuda() && dy.size(1) < kFewColumns && dy.size(0) >= 4 * dy.size(1) &&
           w.size(1) >= 3 * a.head_dim;
  }
  static Tensor written_out(const Tensor& w, const Attrs& a) {  // [n, d]
    Tensor full = Tensor::empty({w.size(0), w.size(1) + a.head_dim}, w.dtype(), w.device());
    BdWeightsArguments only{.stored = {Tensor(), w, Tensor()}, .written = {Tensor(), full, Tensor()}};
    BdWeightsOptions options{a.head_dim, a.slice_at_back ? BdSlice::back : BdSlice::front};
    bd_weights_kernel(w.device().type, w.dtype(), only, options, false);
    return full;
  }
  template <class Table>
  static bool fused(const Table& table, const Tensor& in, const Tensor& w, const Attrs& a, const Tensor& out) {
    bool done = false;
    if (bd_path != BdPath::gemm && bd_path != BdPath::written_out && table.has(in.device().type, in.dtype()))
      table(in.device().type, in.dtype(), in, w, a, out, done);
    require(done || bd_path != BdPath::fused, name, "a shape and device that the fused kernel takes",
            describe(in) + " and weight " + describe(w) + " on " + name_of(in.device()));
    return done;
  }
  static Tensor rows(const Tensor& t) {
    int64_t c = t.size(-1), n = 1;
    for (int i = 0; i + 1 < t.dim(); ++i) n *= t.size(i);
    return t.view({n, c});
  }
  static void* rest(const Tensor& x, const Attrs& a) {  // the first element of x[:, R]
    return static_cast<char*>(x.raw()) + (a.slice_at_back ? 0 : a.head_dim * core::size_of(x.dtype()));
  }
};
REGISTER_OP(BdLinear)

Var bd_linear(const Var& x, const Var& weight, const BdOptions& options) {
  return autograd::apply<BdLinear>(options, x, weight);
}

}  // namespace basis::ops
