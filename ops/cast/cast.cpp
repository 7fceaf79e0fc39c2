// y = round(x)        dx = dy, in x's dtype
#include "ops/cast/cast.h"

#include "autograd/registry.h"

namespace basis::ops {

struct Cast {
  static constexpr std::string_view name = "cast";
  struct Attrs {
    DType to = DType::f32, from = DType::f32;
    Tensor copy = {};  // the result, where it is known
  };
  static Tensor forward(Context&, const Attrs& a, const Tensor& x) {
    require_float(x, name);
    require(core::is_float(a.to), name, "a float target", std::string(name_of(a.to)));
    if (a.copy)
      require(a.copy.shape() == x.shape() && a.copy.dtype() == a.to && a.copy.device() == x.device(), name,
              "a copy like " + describe(x), describe(a.copy));
    return a.copy ? a.copy : a.to == x.dtype() ? x : x.to(a.to);
  }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) { return {dy.to(a.from)}; }
  static std::vector<Sample<Cast>> samples() {
    // Only widening casts are differentiable functions on the checked grid; rounding ones are compared in unit tests.
    return {{.name = "to f64", .attrs = {DType::f64, DType::f64}, .inputs = {{{3, 5}}}},
            {.name = "one element", .attrs = {DType::f64, DType::f64}, .inputs = {{{1, 1}}}},
            {.name = "empty", .attrs = {DType::f64, DType::f64}, .inputs = {{{0}}}}};
  }
  static std::vector<ErrorSample<Cast>> error_samples() {
    return {{"integer target", {DType::i32, DType::f64}, {{{2}}}}};
  }
};
REGISTER_OP(Cast)

Var cast(const Var& x, DType dtype, const Tensor& copy) {
  return autograd::apply<Cast>({.to = dtype, .from = x.dtype(), .copy = copy}, x);
}
Var cast(const Var& x, DType dtype) { return autograd::apply<Cast>({.to = dtype, .from = x.dtype()}, x); }

}  // namespace basis::ops
