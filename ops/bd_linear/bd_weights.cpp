// written[:, order[p]] = [I | C][:, p]        dC[:, p] = dwritten[:, order[p]]
#include "ops/bd_linear/bd_weights.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {

struct BdWeightsOp {
  static constexpr std::string_view name = "bd_weights";
  using Attrs = BdWeightsOptions;

  static std::array<Tensor, 6> forward(Context& ctx, const Attrs& a, const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& bq, const Tensor& bk, const Tensor& bv) {
    require_float(q, name);
    require(q.dim() == 2, name, "q [out, d]", describe(q));
    int64_t d = q.size(1), rows = 0;
    if (a.order) {
      require(
          a.order.dtype() == DType::i32 && a.order.dim() == 1 && a.order.size(0) == d && a.order.device() == q.device(),
          name, "order [d] i32 on the weights' device", describe(a.order) + " for q " + describe(q));
    }
    BdWeightsArguments args{.stored = {q, k, v}, .bias = {bq, bk, bv}};
    for (size_t i = 0; i < 3; ++i) {
      const Tensor& w = args.stored[i];
      bool bd = bd_slice_of(a, i) != BdSlice::none;
      require(w.defined() && w.dim() == 2 && (!bd || (a.head_dim > 0 && d > a.head_dim && w.size(0) % a.head_dim == 0)),
              name, "heads of head_dim below d", describe(w) + " and head_dim " + std::to_string(a.head_dim));
      require_shape(w, {w.size(0), bd ? d - a.head_dim : d}, q, name);
      if (args.bias[i]) require_shape(args.bias[i], {w.size(0)}, q, name);
      rows += w.size(0);
    }
    Tensor all = Tensor::empty({rows * d}, q.dtype(), q.device()),
           copies = Tensor::empty({rows}, q.dtype(), q.device());
    for (size_t i = 0, row = 0; i < 3; ++i) {
      int64_t n = args.stored[i].size(0), end = int64_t(row) + n;
      args.written[i] = all.slice(0, int64_t(row) * d, end * d).view({n, d});
      args.bias_copy[i] = copies.slice(0, int64_t(row), end);
      row = size_t(end);
    }
    if (rows) bd_weights_kernel(q.device().type, q.dtype(), args, a, false);
    return {args.written[0], args.written[1], args.written[2], args.bias_copy[0], args.bias_copy[1], args.bias_copy[2]};
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                          const Tensor& dbq, const Tensor& dbk, const Tensor& dbv) {
    BdWeightsArguments args{.written = {dq, dk, dv}};
    int64_t rows = 0;
    for (size_t i = 0; i < 3; ++i) {
      Tensor& dw = args.written[i];
      if (!ctx.needs(int(i))) {
        dw = {};
        continue;
      }
      if (dw.dtype() != args.written[0].dtype() && args.written[0]) dw = dw.to(args.written[0].dtype());
      int64_t d = dw.size(1) - (bd_slice_of(a, i) != BdSlice::none ? a.head_dim : 0);
      args.stored[i] = Tensor::empty({dw.size(0), d}, dw.dtype(), dw.device());
      rows += dw.size(0);
    }
    if (rows) {
      const Tensor& any = args.written[0] ? args.written[0] : args.written[1] ? args.written[1] : args.written[2];
      bd_weights_kernel(any.device().type, any.dtype(), args, a, true);
    }
    return {args.stored[0], args.stored[1], args.stored[2], dbq, dbk, dbv};
  }

  static std::vector<Sample<BdWeightsOp>> samples() {
    InputSpec none{.given = false};
    auto order = [](std::vector<int32_t> v) { return Tensor::from(v, {int64_t(v.size())}); };
    BdSlice front = BdSlice::front, back = BdSlice::back;
    return {
        {.name = "both in order",
         .attrs = {2, front, back, order({3, 0, 5, 1, 2, 4})},
         .inputs = {{{6, 6}}, {{6, 4}}, {{6, 4}}, {{6}}, none, {{6}}}},
        {.name = "values alone, grouped heads",
         .attrs = {3, BdSlice::none, back, {}},
         .inputs = {{{6, 7}}, {{3, 7}}, {{3, 4}}, none, none, none}},
        {.name = "keys alone",
         .attrs = {1, back, BdSlice::none, order({1, 2, 0})},
         .inputs = {{{1, 3}}, {{2, 2}}, {{2, 3}}, {{1}}, {{2}}, {{2}}}},
        {.name = "no heads",
         .attrs = {1, BdSlice::none, BdSlice::back, {}},
         .inputs = {{{0, 4}}, {{0, 4}}, {{0, 3}}, none, none, none}},
        {.name = "wide",
         .attrs = {64, front, back, {}},
         .inputs = {{{64, 320}}, {{64, 256}}, {{128, 256}}, none, none, {{128}}}},
    };
  }
  static std::vector<ErrorSample<BdWeightsOp>> error_samples() {
    InputSpec none{.given = false};
    return {{"part of a head", {4, BdSlice::front}, {{{8, 8}}, {{6, 4}}, {{8, 8}}, none, none, none}},
            {"width differs", {2, BdSlice::front}, {{{8, 8}}, {{6, 5}}, {{8, 8}}, none, none, none}},
            {"bias differs", {2, BdSlice::front}, {{{8, 8}}, {{6, 6}}, {{8, 8}}, {{7}}, none, none}}};
  }
};
REGISTER_OP(BdWeightsOp)

BdWeights bd_weights(const std::vector<Var>& w, const std::vector<Var>& b, const BdWeightsOptions& options) {
  require(w.size() == 3 && b.size() == 3, BdWeightsOp::name, "three weights and biases",
          std::to_string(w.size()) + " and " + std::to_string(b.size()));
  auto y = autograd::apply_all<BdWeightsOp>(options, {w[0], w[1], w[2], b[0], b[1], b[2]});
  BdWeights out{.weights = {y[0], y[1], y[2]}};
  bool any = b[0] || b[1] || b[2];
  for (size_t i = 0; i < 3; ++i) out.biases.push_back(!any ? Var() : b[i] ? y[3 + i] : Var(y[3 + i].value()));
  return out;
}

bool bd_weights_pay(const Var& x, int64_t head_dim, int64_t out) {
  if (bd_path != BdPath::automatic) return bd_path == BdPath::written_out;
  int64_t d = x.size(-1), rows = d ? x.value().numel() / d : 0;
  return x.value().device().is_cuda() && rows >= out && 8 * head_dim <= d;
}

}  // namespace basis::ops
