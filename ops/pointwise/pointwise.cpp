// add:    y = a + b          da = dy              db = dy summed over the axes b was repeated along
// mul:    y = a * b          da = dy * b          db = dy * a, summed likewise
// scale:  y = c x            dx = c dy
// unary:  y = f(x)           dx = f'(x) dy
// swiglu: y = silu(g) * u    dg = dy u silu'(g)   du = dy silu(g)
#include "ops/pointwise/pointwise.h"

#include "autograd/registry.h"
#include "ops/common/column_sum.h"

namespace basis::ops {
namespace {

void require_suffix(const Tensor& a, const Tensor& b, std::string_view op) {
  require_float(a, op);
  bool ok = b.defined() && b.dtype() == a.dtype() && b.device() == a.device() && b.dim() <= a.dim();
  for (int i = 1; ok && i <= b.dim(); ++i) ok = a.size(-i) == b.size(-i);
  require(ok, op, "b with a's trailing extents and dtype", describe(a) + " and " + describe(b));
}

// Gradient of a repeated operand: sums g [..., shape] over the leading axes.
Tensor sum_to(const Tensor& g, const Shape& shape) {
  if (g.shape() == shape) return g;
  int64_t c = shape.numel();
  Tensor out = Tensor::empty({c}, g.dtype(), g.device());
  if (g.numel() == 0) return Tensor::zeros(shape, g.dtype(), g.device());
  column_sum(g.device().type, g.dtype(), g.view({g.numel() / c, c}), out);
  return out.view(shape);
}

}  // namespace

struct Add {
  static constexpr std::string_view name = "add";
  struct Attrs {
    Shape b;
  };
  static Tensor forward(Context&, const Attrs&, const Tensor& a, const Tensor& b) {
    require_suffix(a, b, name);
    Tensor y = a.empty_like();
    if (y.numel()) add_forward(a.device().type, a.dtype(), 1.0, a, b, y);
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs& at, const Tensor& dy) {
    return {dy, ctx.needs(1) ? sum_to(dy, at.b) : Tensor()};
  }
  static std::vector<Sample<Add>> samples() {
    return {{.name = "same shape", .attrs = {{3, 5}}, .inputs = {{{3, 5}}, {{3, 5}}}},
            {.name = "suffix", .attrs = {{3, 5}}, .inputs = {{{4, 3, 5}}, {{3, 5}}}, .reduction_length = 4},
            {.name = "one element", .attrs = {{1}}, .inputs = {{{7, 1}}, {{1}}}, .reduction_length = 7},
            {.name = "empty", .attrs = {{2}}, .inputs = {{{0, 2}}, {{2}}}}};
  }
  static std::vector<ErrorSample<Add>> error_samples() {
    return {{"not a suffix", {{4}}, {{{4, 3}}, {{4}}}}, {"larger", {{2, 3}}, {{{3}}, {{2, 3}}}}};
  }
};
REGISTER_OP(Add)

struct Mul {
  static constexpr std::string_view name = "mul";
  struct Attrs {};
  static Tensor forward(Context& ctx, const Attrs&, const Tensor& a, const Tensor& b) {
    require_suffix(a, b, name);
    ctx.save({a, b});
    return product(a, b);
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    const Tensor &a = ctx.saved(0), &b = ctx.saved(1);
    return {ctx.needs(0) ? product(dy, b) : Tensor(), ctx.needs(1) ? sum_to(product(dy, a), b.shape()) : Tensor()};
  }
  static std::vector<Sample<Mul>> samples() {
    return {{.name = "same shape", .inputs = {{{3, 5}}, {{3, 5}}}},
            {.name = "suffix", .inputs = {{{4, 3, 5}}, {{5}}}, .reduction_length = 12},
            {.name = "one element", .inputs = {{{1}}, {{1}}}},
            {.name = "empty", .inputs = {{{0, 2}}, {{2}}}}};
  }
  static std::vector<ErrorSample<Mul>> error_samples() { return {{"not a suffix", {}, {{{4, 3}}, {{4}}}}}; }

 private:
  static Tensor product(const Tensor& a, const Tensor& b) {
    Tensor y = a.empty_like();
    if (y.numel()) mul_forward(a.device().type, a.dtype(), a, b, y);
    return y;
  }
};
REGISTER_OP(Mul)

struct Scale {
  static constexpr std::string_view name = "scale";
  struct Attrs {
    double factor = 1;
  };
  static Tensor forward(Context&, const Attrs& at, const Tensor& x) {
    require_float(x, name);
    return times(at.factor, x);
  }
  static Tensors backward(const Context&, const Attrs& at, const Tensor& dy) { return {times(at.factor, dy)}; }
  static std::vector<Sample<Scale>> samples() {
    return {{.name = "negative", .attrs = {-2.5}, .inputs = {{{3, 5}}}},
            {.name = "zero", .attrs = {0}, .inputs = {{{4}}}},
            {.name = "scalar", .attrs = {3}, .inputs = {{{}}}},
            {.name = "empty", .attrs = {3}, .inputs = {{{0}}}}};
  }

 private:
  static Tensor times(double factor, const Tensor& x) {
    Tensor y = x.empty_like();
    if (y.numel()) scale_forward(x.device().type, x.dtype(), factor, x, y);
    return y;
  }
};
REGISTER_OP(Scale)

constexpr std::string_view unary_names[] = {"gelu_tanh", "gelu_erf", "silu", "tanh"};  // by Unary

template <Unary kind>
struct UnaryOp {
  static constexpr std::string_view name = unary_names[int(kind)];
  struct Attrs {};
  static Tensor forward(Context& ctx, const Attrs&, const Tensor& x) {
    require_float(x, name);
    Tensor y = x.empty_like();
    if (y.numel()) unary_forward(x.device().type, x.dtype(), kind, x, y);
    ctx.save({x});
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    const Tensor& x = ctx.saved(0);
    Tensor dx = x.empty_like();
    if (x.numel()) unary_backward(x.device().type, x.dtype(), kind, x, dy, dx);
    return {dx};
  }
  static std::vector<Sample<UnaryOp>> samples() {
    return {{.name = "around zero", .inputs = {{{3, 17}, -2, 2}}},
            {.name = "tails",
             .inputs = {{{40}, -12, 12}},
             .factor = 4},  // x f(x) of the tail: rounding of x is scaled by |x|
            {.name = "one element", .inputs = {{{1}}}},
            {.name = "empty", .inputs = {{{0, 3}}}}};
  }
};
using GeluTanhOp = UnaryOp<Unary::gelu_tanh>;
using GeluErfOp = UnaryOp<Unary::gelu_erf>;
using SiluOp = UnaryOp<Unary::silu>;
using TanhOp = UnaryOp<Unary::tanh>;
REGISTER_OP(GeluTanhOp)
REGISTER_OP(GeluErfOp)
REGISTER_OP(SiluOp)
REGISTER_OP(TanhOp)

struct SwiGlu {
  static constexpr std::string_view name = "swiglu";
  struct Attrs {};
  static Tensor forward(Context& ctx, const Attrs&, const Tensor& gate, const Tensor& up) {
    require_float(gate, name);
    require_shape(up, gate.shape(), gate, name);
    Tensor y = gate.empty_like();
    if (y.numel()) swiglu_forward(y.device().type, y.dtype(), gate, up, y);
    ctx.save({gate, up});
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    const Tensor &gate = ctx.saved(0), &up = ctx.saved(1);
    // In one block: the gradients of the two projections are then one batched product (ops/linear).
    int64_t n = gate.numel(), second = (n + 127) / 128 * 128;
    Tensor all = Tensor::empty({second + n}, gate.dtype(), gate.device());
    Tensor dgate = all.slice(0, 0, n).view(gate.shape()), dup = all.slice(0, second, second + n).view(up.shape());
    if (dy.numel()) swiglu_backward(dy.device().type, dy.dtype(), gate, up, dy, dgate, dup);
    return {dgate, dup};
  }
  static std::vector<Sample<SwiGlu>> samples() {
    return {{.name = "matrix", .inputs = {{{3, 17}, -3, 3}, {{3, 17}}}},
            {.name = "one element", .inputs = {{{1}}, {{1}}}},
            {.name = "empty", .inputs = {{{0}}, {{0}}}}};
  }
  static std::vector<ErrorSample<SwiGlu>> error_samples() { return {{"shapes differ", {}, {{{3}}, {{4}}}}}; }
};
REGISTER_OP(SwiGlu)

Var add(const Var& a, const Var& b) { return autograd::apply<Add>({b.shape()}, a, b); }
Var mul(const Var& a, const Var& b) { return autograd::apply<Mul>({}, a, b); }
Var scale(const Var& x, double factor) { return autograd::apply<Scale>({factor}, x); }
Var gelu_tanh(const Var& x) { return autograd::apply<GeluTanhOp>({}, x); }
Var gelu_erf(const Var& x) { return autograd::apply<GeluErfOp>({}, x); }
Var silu(const Var& x) { return autograd::apply<SiluOp>({}, x); }
Var tanh(const Var& x) { return autograd::apply<TanhOp>({}, x); }
Var swiglu(const Var& gate, const Var& up) { return autograd::apply<SwiGlu>({}, gate, up); }

}  // namespace basis::ops
