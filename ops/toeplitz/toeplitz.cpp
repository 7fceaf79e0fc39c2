// y = conv(a, m) x:  y^ = a^ x^ over 2m points or more      dx^ = a^* dy^    da^ = sum over channels of x^* dy^
// y = conv(a, m)^T x:  y^ = a^* x^                           dx^ = a^ dy^     da^ = sum over channels of dy^* x^
#include "ops/toeplitz/toeplitz.h"

#include <bit>

#include "autograd/registry.h"
#include "core/basic/basic.h"
#include "core/fft/fft.h"

namespace basis::ops {

struct Toeplitz {
  static constexpr std::string_view name = "toeplitz";
  using Attrs = ToeplitzOptions;

  static int64_t size(const Attrs& o, const Tensor& a) { return o.m ? o.m : a.size(0); }

  // The spectrum of the last (x) or first (a) m rows of t [n, C], padded by zeros to a power of two of at least 2m.
  static Tensor spectrum(const Tensor& t, int64_t begin, int64_t m) {
    DType work = t.dtype() == DType::f64 ? DType::f64 : DType::f32;
    int64_t n = int64_t(std::bit_ceil(uint64_t(2 * m))), c = t.size(1);
    Tensor padded = Tensor::zeros({n, c}, work, t.device());
    padded.slice(0, 0, m).copy_from(t.slice(0, begin, begin + m));
    Tensor out = Tensor::empty({n / 2 + 1, c, 2}, work, t.device());
    core::rfft(padded, out);
    return out;
  }
  // The first m rows of the inverse transform, at row `begin` of a tensor [n, C] of zeros.
  static Tensor back(const Tensor& s, int64_t begin, int64_t m, int64_t n, DType dtype) {
    Tensor padded = Tensor::empty({2 * (s.size(0) - 1), s.size(1)}, s.dtype(), s.device());
    core::irfft(s, padded);
    Tensor out = Tensor::zeros({n, s.size(1)}, dtype, s.device());
    out.slice(0, begin, begin + m).copy_from(padded.slice(0, 0, m));
    return out;
  }
  static Tensor product(const Tensor& a, const Tensor& x, bool conjugated) {
    Tensor out = x.empty_like();
    spectrum_product(x.device().type, x.dtype(), a, x, conjugated, out);
    return out;
  }

  static Tensor forward(Context& ctx, const Attrs& o, const Tensor& a, const Tensor& x) {
    require_float(x, name);
    require(a.defined() && a.dim() == 1 && x.dim() == 2 && x.size(0) == a.size(0) && a.dtype() == x.dtype() &&
                a.device() == x.device(),
            name, "a [n] and x [n, C]", describe(a) + " and " + describe(x));
    require(o.m >= 0 && o.m <= a.size(0), name, "m in [0, n]", std::to_string(o.m));
    ctx.save({a, x});
    int64_t n = a.size(0), m = size(o, a);
    if (!x.numel()) return Tensor::zeros(x.shape(), x.dtype(), x.device());
    Tensor y = product(spectrum(a.view({n, 1}), 0, m), spectrum(x, n - m, m), o.transposed);
    return back(y, n - m, m, n, x.dtype());
  }

  static Tensors backward(const Context& ctx, const Attrs& o, const Tensor& dy) {
    const Tensor &a = ctx.saved(0), &x = ctx.saved(1);
    int64_t n = a.size(0), m = size(o, a);
    if (!x.numel())
      return {Tensor::zeros(a.shape(), a.dtype(), a.device()), Tensor::zeros(x.shape(), x.dtype(), x.device())};
    Tensor g = spectrum(dy, n - m, m), da, dx;
    if (ctx.needs(0)) {
      Tensor s = spectrum(x, n - m, m), sum = Tensor::empty({s.size(0), 1, 2}, s.dtype(), s.device());
      spectrum_dot(s.device().type, s.dtype(), o.transposed ? g : s, o.transposed ? s : g, sum);
      da = back(sum, 0, m, n, a.dtype()).view({n});
    }
    if (ctx.needs(1)) dx = back(product(spectrum(a.view({n, 1}), 0, m), g, !o.transposed), n - m, m, n, x.dtype());
    return {da, dx};
  }

  static std::vector<Sample<Toeplitz>> samples() {
    return {
        {.name = "square", .attrs = {}, .inputs = {{{8}}, {{8, 3}}}, .factor = 4, .reduction_length = 24},
        {.name = "odd", .attrs = {}, .inputs = {{{13}}, {{13, 2}}}, .factor = 4, .reduction_length = 26},
        {.name = "transposed", .attrs = {0, true}, .inputs = {{{13}}, {{13, 2}}}, .factor = 4, .reduction_length = 26},
        {.name = "corner", .attrs = {5}, .inputs = {{{9}}, {{9, 20}}}, .factor = 4, .reduction_length = 100},
        {.name = "corner, transposed",
         .attrs = {5, true},
         .inputs = {{{9}}, {{9, 2}}},
         .factor = 4,
         .reduction_length = 10},
        {.name = "one", .attrs = {}, .inputs = {{{1}}, {{1, 1}}}, .factor = 4},
        {.name = "empty", .attrs = {}, .inputs = {{{0}}, {{0, 3}}}}};
  }
  static std::vector<ErrorSample<Toeplitz>> error_samples() {
    return {{"lengths differ", {}, {{{4}}, {{5, 2}}}},
            {"a matrix for a", {}, {{{4, 1}}, {{4, 2}}}},
            {"m beyond n", {5}, {{{4}}, {{4, 2}}}}};
  }
};
REGISTER_OP(Toeplitz)

Var toeplitz(const Var& a, const Var& x, const ToeplitzOptions& options) {
  return autograd::apply<Toeplitz>(options, a, x);
}

}  // namespace basis::ops
