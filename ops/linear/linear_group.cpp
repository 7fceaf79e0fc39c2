// y_i = x W_i^T + b_i        dx = sum_i dy_i W_i        dW_i = dy_i^T x        db_i = sum of dy_i over rows
//
// Where the W_i or the dy_i are alike and lie at equal distances (the optimizer's copies of weights, the gradients that
// attention writes), one batched product takes the place of several that are too small to fill a GPU.
#include "autograd/registry.h"
#include "ops/linear/parts.h"

namespace basis::ops {
namespace {

constexpr size_t weight_at(size_t i) { return 1 + 2 * i; }  // among the inputs; its bias follows

template <size_t N>
std::array<Tensor, N> forward_group(Context& ctx, std::string_view name, const Tensor& x,
                                    const std::array<std::array<Tensor, 2>, N>& maps) {
  std::array<Tensor, N> ws, bs;
  bool any = false, biased = false;
  for (size_t i = 0; i < N; ++i) {
    affine::check(x, ws[i] = maps[i][0], bs[i] = maps[i][1], name);
    any |= ctx.needs(int(weight_at(i)));
    biased |= bs[i].defined();
  }
  std::array<Tensor, N> ys;
  int64_t from_weight = affine::spacing(ws), from_bias = biased ? affine::spacing(bs) : 0;
  if (from_weight && (from_bias || !biased)) {
    Tensor in = affine::rows(x);
    ys = affine::adjacent<N>(affine::with_last(x, ws[0].size(0)), x.dtype(), x.device());
    core::Gemm g{.trans_b = true, .m = in.size(0), .n = ws[0].size(0), .k = in.size(1), .batch = int64_t(N)};
    g.a = x.raw(), g.b = ws[0].raw(), g.c = ys[0].raw(), g.bias = bs[0].raw();
    g.lda = g.ldb = g.k, g.ldc = g.n, g.stride_b = from_weight, g.stride_c = g.m * g.n, g.stride_bias = from_bias;
    core::gemm(g, x.dtype(), x.device());
  } else {
    for (size_t i = 0; i < N; ++i) ys[i] = affine::product(x, ws[i], bs[i]);
  }
  auto weight = [&](size_t i) { return ctx.needs(0) ? ws[i] : Tensor(); };
  ctx.save({any ? x : Tensor(), weight(0), weight(1), N > 2 ? weight(N - 1) : Tensor()});
  return ys;
}

template <size_t N>
std::array<Tensor, N> weight_gradients(const Tensor& x, const std::array<Tensor, N>& dys, int64_t from_dy) {
  Tensor dy = affine::rows(dys[0]);
  int64_t in = x.size(-1), out = dy.size(1);
  auto dws = affine::adjacent<N>({out, in}, affine::wide(x.dtype()), x.device());
  core::Gemm g{.trans_a = true, .m = out, .n = in, .k = dy.size(0), .batch = int64_t(N)};
  g.a = dy.raw(), g.b = x.raw(), g.c = dws[0].raw();
  g.lda = out, g.ldb = g.ldc = in, g.stride_a = from_dy, g.stride_c = out * in;
  g.c_wide = dws[0].dtype() != x.dtype();
  core::gemm(g, x.dtype(), x.device());
  return dws;
}

// Alike ones in one launch.
template <size_t N>
void bias_gradients(const Context& ctx, const std::array<Tensor, N>& dys, Tensors& gradients) {
  Tensors xs, outs;
  for (size_t i = 0; i < N; ++i) {
    size_t at = weight_at(i) + 1;
    if (!ctx.needs(int(at))) continue;
    Tensor dy = affine::rows(dys[i]);
    if (!dy.numel() || (!xs.empty() && !(dy.shape() == xs[0].shape()))) {
      gradients[at] = affine::bias_gradient(dy);
      continue;
    }
    gradients[at] = Tensor::empty({dy.size(1)}, affine::wide(dy.dtype()), dy.device());
    xs.push_back(dy), outs.push_back(gradients[at]);
  }
  if (!xs.empty()) column_sums(xs[0].device().type, xs[0].dtype(), xs, outs);
}

template <size_t N>
Tensors backward_group(const Context& ctx, const std::array<Tensor, N>& dys) {
  Tensors gradients(1 + 2 * N);
  bool all = true;
  for (size_t i = 0; i < N; ++i) all &= ctx.needs(int(weight_at(i)));
  int64_t from_dy = all && dys[0].numel() ? affine::spacing(dys) : 0;
  std::array<Tensor, N> dws;
  if (from_dy) dws = weight_gradients(ctx.saved(0), dys, from_dy);
  for (size_t i = 0; i < N; ++i) {
    size_t at = weight_at(i);
    if (ctx.needs(0)) affine::add_input_gradient(dys[i], ctx.saved(1 + i), gradients[0]);
    if (ctx.needs(int(at))) gradients[at] = dws[i] ? dws[i] : affine::weight_gradient(dys[i], ctx.saved(0));
  }
  bias_gradients(ctx, dys, gradients);
  return gradients;
}

}  // namespace

struct LinearPair {
  static constexpr std::string_view name = "linear_pair";
  struct Attrs {};
  static std::array<Tensor, 2> forward(Context& ctx, const Attrs&, const Tensor& x, const Tensor& w0, const Tensor& b0,
                                       const Tensor& w1, const Tensor& b1) {
    return forward_group<2>(ctx, name, x, {{{w0, b0}, {w1, b1}}});
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy0, const Tensor& dy1) {
    return backward_group<2>(ctx, {dy0, dy1});
  }
  static std::vector<Sample<LinearPair>> samples() {
    InputSpec none{.given = false};
    return {
        {.name = "no biases", .inputs = {{{2, 5, 7}}, {{3, 7}}, none, {{4, 7}}, none}, .reduction_length = 10},
        {.name = "biases", .inputs = {{{9, 4}}, {{6, 4}}, {{6}}, {{6, 4}}, {{6}}}, .reduction_length = 18},
        {.name = "one by one", .inputs = {{{1, 1}}, {{1, 1}}, {{1}}, {{1, 1}}, {{1}}}},
        {.name = "no rows", .inputs = {{{0, 3}}, {{2, 3}}, {{2}}, {{1, 3}}, {{1}}}},
    };
  }
  static std::vector<ErrorSample<LinearPair>> error_samples() {
    return {{"second width differs", {}, {{{2, 5}}, {{3, 5}}, {.given = false}, {{3, 4}}, {.given = false}}}};
  }
};
REGISTER_OP(LinearPair)

struct LinearTriple {
  static constexpr std::string_view name = "linear_triple";
  struct Attrs {};
  static std::array<Tensor, 3> forward(Context& ctx, const Attrs&, const Tensor& x, const Tensor& w0, const Tensor& b0,
                                       const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2) {
    return forward_group<3>(ctx, name, x, {{{w0, b0}, {w1, b1}, {w2, b2}}});
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy0, const Tensor& dy1, const Tensor& dy2) {
    return backward_group<3>(ctx, {dy0, dy1, dy2});
  }
  static std::vector<Sample<LinearTriple>> samples() {
    InputSpec none{.given = false};
    return {
        {.name = "biases",
         .inputs = {{{2, 5, 8}}, {{8, 8}}, {{8}}, {{4, 8}}, {{4}}, {{4, 8}}, {{4}}},
         .reduction_length = 16},
        {.name = "some biases",
         .inputs = {{{9, 4}}, {{6, 4}}, {{6}}, {{3, 4}}, none, {{3, 4}}, {{3}}},
         .reduction_length = 12},
        {.name = "one by one", .inputs = {{{1, 1}}, {{1, 1}}, none, {{1, 1}}, none, {{1, 1}}, none}},
        {.name = "no rows", .inputs = {{{0, 3}}, {{2, 3}}, {{2}}, {{1, 3}}, {{1}}, {{1, 3}}, {{1}}}},
    };
  }
  static std::vector<ErrorSample<LinearTriple>> error_samples() {
    InputSpec none{.given = false};
    return {{"third width differs", {}, {{{2, 5}}, {{3, 5}}, none, {{3, 5}}, none, {{3, 4}}, none}},
            {"third bias differs", {}, {{{2, 5}}, {{3, 5}}, none, {{3, 5}}, none, {{3, 5}}, {{4}}}}};
  }
};
REGISTER_OP(LinearTriple)

std::vector<Var> linear_group(const Var& x, const std::vector<Var>& w, const std::vector<Var>& b) {
  if (w.size() != b.size() || w.size() < 2 || w.size() > 3)
    throw core::Error({.where = "linear_group",
                       .expected = "two or three weights and as many biases",
                       .got = std::to_string(w.size()) + " and " + std::to_string(b.size())});
  if (w.size() == 2) return autograd::apply_all<LinearPair>({}, {x, w[0], b[0], w[1], b[1]});
  return autograd::apply_all<LinearTriple>({}, {x, w[0], b[0], w[1], b[1], w[2], b[2]});
}

}  // namespace basis::ops
