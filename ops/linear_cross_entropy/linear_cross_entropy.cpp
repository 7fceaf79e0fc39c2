// z = x W^T + b;  loss = scale sum_n [t_n != ignore] (log sum_v exp z_nv - z_n,t_n)
// g_nv = [t_n != ignore] (softmax(z_n)_v - [v = t_n])
// dx = scale dloss g W        dW = scale dloss g^T x        db = scale dloss sum_n g_n
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"
#include "core/gemm/gemm.h"
#include "ops/common/column_sum.h"
#include "ops/common/sum_scaled.h"

namespace basis::ops {
namespace {

constexpr std::string_view kName = "linear_cross_entropy";

DType wide(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

Tensor rows_of(const Tensor& x) {
  int64_t c = x.size(-1), n = 1;
  for (int i = 0; i + 1 < x.dim(); ++i) n *= x.size(i);
  return x.view({n, c});
}

void check(const Tensor& x, const Tensor& w, const Tensor& b, const LinearCrossEntropyAttrs& a) {
  require_float(x, kName);
  require(x.dim() >= 1 && x.size(-1) >= 1, kName, "x [..., C] with C >= 1", describe(x));
  require(w.defined() && w.dim() == 2 && w.size(0) >= 1, kName, "weight [V, C] with V >= 1", describe(w));
  require_shape(w, {w.size(0), x.size(-1)}, x, kName);
  if (b) require_shape(b, {w.size(0)}, x, kName);
  int64_t n = x.numel() / x.size(-1);
  require(a.targets.defined() && a.targets.shape() == Shape{n} && a.targets.dtype() == DType::i32 &&
              a.targets.device() == x.device(),
          kName, "i32 targets [" + std::to_string(n) + "]", describe(a.targets));
  require(a.options.chunk >= 0, kName, "chunk >= 0", std::to_string(a.options.chunk));
}

// What the chunks fill: undefined where it is not wanted.
struct Results {
  Tensor loss, hits;  // [N]
  Tensor dx;          // [N,C]
  Tensor dw, db;      // [columns,C], [columns], f32 (f64 for f64)
  bool gradient() const { return dx || dw || db; }
};

// How many columns of logits are computed: on a GPU a multiple of 8, because its kernels for other widths are seven
// times slower (GPT-2's 50,257: 27 ms against 3.6). Those beyond the vocabulary belong to weights of 0 and count
// nothing.
int64_t columns(int64_t v, Device device) { return device.is_cuda() && v % 8 ? (v + 63) / 64 * 64 : v; }

Tensor padded(const Tensor& t, int64_t size) {
  if (!t || t.size(0) == size) return t;
  Shape shape = t.shape();
  shape[0] = size;
  Tensor out = Tensor::empty(shape, t.dtype(), t.device());
  out.slice(0, 0, t.size(0)).copy_from(t);
  core::fill(out.slice(0, t.size(0), size), 0);
  return out;
}

void for_chunks(const Tensor& x, const Tensor& weight, const Tensor& bias, const LinearCrossEntropyAttrs& a,
                const Results& r) {
  Tensor all = rows_of(x), targets = a.targets.contiguous();
  int64_t n = all.size(0), v = weight.size(0), chunk = a.options.chunk > 0 ? std::min(a.options.chunk, n) : n;
  int64_t wide = columns(v, x.device());
  Tensor w = padded(weight, wide), b = padded(bias, wide);
  Tensor logits = Tensor::empty({chunk, wide}, x.dtype(), x.device());
  for (int64_t begin = 0; begin < n; begin += chunk) {
    int64_t end = std::min(n, begin + chunk);
    auto part = [&](const Tensor& t) { return t ? t.slice(0, begin, end) : t; };
    Tensor z = logits.slice(0, 0, end - begin), xs = part(all);
    core::matmul(xs, false, w, true, z, 0, b);
    cross_entropy_chunk(x.device().type, x.dtype(), z.slice(1, 0, v), part(targets), a.options.ignore_index,
                        r.gradient(), part(r.loss), part(r.hits));
    if (r.dx) core::matmul(z, false, w, false, part(r.dx));
    if (r.dw) core::matmul(z, true, xs, false, r.dw, begin == 0 ? 0 : 1);
    if (r.db) {
      Tensor sum = r.db.empty_like();
      column_sum(x.device().type, x.dtype(), z, sum);
      core::axpy(1, sum, r.db);
    }
  }
}

Tensor sum(const Tensor& rows, double scale) {
  Tensor out = Tensor::empty({}, rows.dtype(), rows.device());
  sum_scaled(rows.device().type, rows.dtype(), rows, scale, out);
  return out;
}

}  // namespace

struct LinearCrossEntropy {
  static constexpr std::string_view name = kName;
  using Attrs = LinearCrossEntropyAttrs;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w, const Tensor& b) {
    check(x, w, b, a);
    DType t = wide(x.dtype());
    Results r{.loss = Tensor::empty({a.targets.numel()}, t, x.device())};
    if (ctx.needs(0)) r.dx = Tensor::empty({r.loss.numel(), x.size(-1)}, x.dtype(), x.device());
    int64_t v = w.size(0), wide = columns(v, x.device());
    Shape weight{wide, w.size(1)};
    if (ctx.needs(1)) r.dw = x.numel() ? Tensor::empty(weight, t, x.device()) : Tensor::zeros(weight, t, x.device());
    if (ctx.needs(2)) r.db = Tensor::zeros({wide}, t, x.device());
    if (x.numel()) for_chunks(x, w, b, a, r);
    auto within = [v](const Tensor& g) { return g ? g.slice(0, 0, v) : g; };
    ctx.save({r.dx ? r.dx.view(x.shape()) : r.dx, within(r.dw), within(r.db)});
    if (!x.numel()) return Tensor::zeros({}, t, x.device());
    return sum(r.loss, a.options.scale);
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dloss) {
    Tensors gradients;
    for (size_t i = 0; i < 3; ++i) gradients.push_back(scaled(ctx.saved(i), a.options.scale, dloss));
    return gradients;
  }

  static std::vector<Sample<LinearCrossEntropy>> samples() {
    auto t = [](std::vector<int32_t> v) { return Tensor::from(v, {int64_t(v.size())}); };
    InputSpec none{.given = false};
    return {
        {.name = "chunks and a rest",
         .attrs = {t({0, 3, 6, 2, 2}), {.scale = 0.2, .chunk = 2}},
         .inputs = {{{5, 4}, -2, 2}, {{7, 4}}, none},
         .reduction_length = 35},
        {.name = "all at once",
         .attrs = {t({1, 0, 2}), {.scale = 0.5}},
         .inputs = {{{3, 5}}, {{3, 5}}, none},
         .reduction_length = 15},
        {.name = "bias",
         .attrs = {t({1, -100, 0, 2, 2, 1}), {.scale = 0.25, .chunk = 4}},
         .inputs = {{{2, 3, 5}}, {{3, 5}}, {{3}}},
         .reduction_length = 18},
        {.name = "chunks of ignored rows",
         .attrs = {t({-1, -1, -1, 2, 0, -1}), {.ignore_index = -1, .chunk = 2}},
         .inputs = {{{6, 3}}, {{4, 3}}, none},
         .reduction_length = 8},
        {.name = "large logits",
         .attrs = {t({1, 0}), {.chunk = 1}},
         .inputs = {{{2, 4}, -9, 9}, {{5, 4}, -9, 9}, none},
         .factor = 4,  // logits of about 100 are rounded before exp
         .reduction_length = 5},
        {.name = "wide",
         .attrs = {t({700, 3}), {.chunk = 1}},
         .inputs = {{{2, 8}}, {{1031, 8}}, none},
         .reduction_length = 1031},
        {.name = "aligned",
         .attrs = {t({255, 3, 17}), {.chunk = 2}},
         .inputs = {{{3, 8}}, {{256, 8}}, none},
         .reduction_length = 256},
        {.name = "rows of a length that is no multiple of eight",
         .attrs = {t({256, 3, 17, 0, 5}), {.chunk = 2}},
         .inputs = {{{5, 16}}, {{259, 16}}, none},
         .reduction_length = 256},
        {.name = "one class", .attrs = {t({0, 0}), {}}, .inputs = {{{2, 2}}, {{1, 2}}, none}},
        {.name = "no rows", .attrs = {t({}), {.chunk = 8}}, .inputs = {{{0, 2}}, {{4, 2}}, {{4}}}},
    };
  }
  static std::vector<ErrorSample<LinearCrossEntropy>> error_samples() {
    auto t = [](std::vector<int32_t> v) { return Tensor::from(v, {int64_t(v.size())}); };
    InputSpec none{.given = false};
    return {{"target too large", {t({0, 3}), {}}, {{{2, 2}}, {{3, 2}}, none}, true},
            {"target negative", {t({0, -2}), {}}, {{{2, 2}}, {{3, 2}}, none}, true},
            {"wrong count", {t({0}), {}}, {{{2, 2}}, {{3, 2}}, none}},
            {"width differs", {t({0, 0}), {}}, {{{2, 2}}, {{3, 4}}, none}},
            {"bias differs", {t({0, 0}), {}}, {{{2, 2}}, {{3, 2}}, {{2}}}},
            {"negative chunk", {t({0, 0}), {.chunk = -1}}, {{{2, 2}}, {{3, 2}}, none}}};
  }

 private:
  static Tensor scaled(const Tensor& g, double scale, const Tensor& dloss) {
    if (!g) return {};
    Tensor out = g.is_sole_owner() ? g : g.empty_like();
    if (g.numel()) scaled_by(g.device().type, g.dtype(), g, scale, dloss, out);
    return out;
  }
};
REGISTER_OP(LinearCrossEntropy)

Var linear_cross_entropy(const Var& x, const Var& weight, const Var& bias, const Tensor& targets,
                         const LinearCrossEntropyOptions& options) {
  return autograd::apply<LinearCrossEntropy>({targets, options}, x, weight, bias);
}

TargetScore score_targets(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& targets,
                          const LinearCrossEntropyOptions& options) {
  LinearCrossEntropyAttrs a{targets, options};
  Tensor in = x.contiguous();
  check(in, weight, bias, a);
  Results r{.loss = Tensor::empty({targets.numel()}, wide(x.dtype()), x.device())};
  r.hits = r.loss.empty_like();
  if (in.numel()) for_chunks(in, weight, bias, a, r);
  return {sum(r.loss, options.scale), sum(r.hits, 1)};
}

}  // namespace basis::ops
