// y = x under another shape        dx = dy under x's shape
#include "ops/view/view.h"

#include "autograd/registry.h"

namespace basis::ops {

struct View {
  static constexpr std::string_view name = "view";
  static constexpr bool strided_gradients = true;
  struct Attrs {
    Shape shape, from;
  };

  static Tensor forward(Context&, const Attrs& a, const Tensor& x) {
    require(x.numel() == a.shape.numel(), name, a.shape.str(), describe(x));
    return x.view(a.shape);
  }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) {
    return {dy.is_contiguous() || merges_last(dy, a.from) ? dy.view(a.from) : dy.contiguous().view(a.from)};
  }

  // Whether dy's last two axes, without gaps, are the last one of the shape: heads that lie in a wider row.
  static bool merges_last(const Tensor& dy, const Shape& to) {
    int d = dy.dim();
    if (d < 2 || to.dim() != d - 1 || to[d - 2] != dy.size(d - 2) * dy.size(d - 1)) return false;
    for (int i = 0; i < d - 2; ++i)
      if (to[i] != dy.size(i)) return false;
    return dy.stride(d - 1) == 1 && dy.stride(d - 2) == dy.size(d - 1);
  }

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
