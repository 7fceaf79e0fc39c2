// (y_a, y_b) = R(p w_i) (x_a, x_b),  w_i = theta^(-2i/R),  p = scale (first + t)        dx = R(-p w_i) dy
#include "ops/rope/rope.h"

#include "autograd/registry.h"

namespace basis::ops {

struct Rope {
  static constexpr std::string_view name = "rope";
  using Attrs = RopeOptions;

  static Tensor forward(Context&, const Attrs& a, const Tensor& x) {
    require_float(x, name);
    require(x.dim() == 4, name, "x [B,T,H,D]", describe(x));
    int64_t r = a.rotary_dim ? a.rotary_dim : x.size(3);
    require(r > 0 && r % 2 == 0 && r <= x.size(3), name, "an even rotary_dim up to D",
            std::to_string(r) + " of " + std::to_string(x.size(3)));
    require(a.theta > 0 && a.first_position >= 0, name, "theta > 0 and first_position >= 0",
            std::to_string(a.theta) + ", " + std::to_string(a.first_position));
    return rotate(a, x, 1);
  }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) { return {rotate(a, dy, -1)}; }

  static std::vector<Sample<Rope>> samples() {
    return {
        {.name = "halves", .attrs = {}, .inputs = {{{2, 3, 2, 6}}}},
        {.name = "interleaved", .attrs = {.interleaved = true}, .inputs = {{{2, 3, 2, 6}}}},
        {.name = "partial, later",
         .attrs = {.theta = 500, .rotary_dim = 4, .first_position = 70, .position_scale = 0.5},
         .inputs = {{{1, 4, 3, 7}}}},
        {.name = "partial interleaved", .attrs = {.interleaved = true, .rotary_dim = 2}, .inputs = {{{1, 5, 1, 3}}}},
        {.name = "one step", .attrs = {}, .inputs = {{{1, 1, 1, 2}}}},
        {.name = "empty", .attrs = {}, .inputs = {{{2, 0, 2, 4}}}}};
  }
  static std::vector<ErrorSample<Rope>> error_samples() {
    return {{"odd D", {}, {{{1, 2, 1, 3}}}},
            {"rotary_dim > D", {.rotary_dim = 8}, {{{1, 2, 1, 4}}}},
            {"three axes", {}, {{{2, 1, 4}}}},
            {"negative position", {.first_position = -1}, {{{1, 2, 1, 4}}}}};
  }

 private:
  static Tensor rotate(const Attrs& a, const Tensor& x, int direction) {
    Tensor y = x.empty_like();
    if (x.numel()) rope_kernel(x.device().type, x.dtype(), x, a, direction, y);
    return y;
  }
};
REGISTER_OP(Rope)

Var rope(const Var& x, const RopeOptions& options) { return autograd::apply<Rope>(options, x); }

}  // namespace basis::ops
