// y = x under another shape        dx = dy under x's shape
#include "ops/view/view.h"

#include "autograd/registry.h"

namespace basis::ops {

struct View {
  static constexpr std::string_view name = "view";
  struct Attrs {
    Shape shape, from;
  };

  static Tensor forward(Context&, const Attrs& a, const Tensor& x) {
    require(x.numel() == a.shape.numel(), name, a.shape.str(), describe(x));
    return x.view(a.shape);
  }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) { return {dy.view(a.from)}; }

  static std::vector<Sample<View>> samples() {
    return {{.name = "split heads", .attrs = {{2, 3, 2, 4}, {2, 3, 8}}, .inputs = {{{2, 3, 8}}}},
            {.name = "one element", .attrs = {{}, {1}}, .inputs = {{{1}}}},
            {.name = "empty", .attrs = {{0, 4}, {2, 0}}, .inputs = {{{2, 0}}}}};
  }
  static std::vector<ErrorSample<View>> error_samples() { return {{"wrong count", {{5}, {6}}, {{{6}}}}}; }
};
REGISTER_OP(View)

Var view(const Var& x, const Shape& shape) { return autograd::apply<View>({.shape = shape, .from = x.shape()}, x); }

}  // namespace basis::ops
