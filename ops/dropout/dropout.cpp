// y_i = x_i m_i,  m_i = keep_i / (1 - p)        dx_i = dy_i m_i
#include "ops/dropout/dropout.h"

#include "autograd/registry.h"

namespace basis::ops {

struct Dropout {
  static constexpr std::string_view name = "dropout";
  using Attrs = DropoutOptions;

  static Tensor forward(Context&, const Attrs& a, const Tensor& x) {
    require_float(x, name);
    require(a.p >= 0 && a.p < 1, name, "a probability in [0, 1)", std::to_string(a.p));
    return masked(a, x);
  }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) { return {masked(a, dy)}; }

  static std::vector<Sample<Dropout>> samples() {
    return {{.name = "one in five", .attrs = {0.2, 7, 3}, .inputs = {{{5, 13}}}},
            {.name = "most", .attrs = {0.9, 1, uint64_t{1} << 40}, .inputs = {{{3, 4, 5}}}},
            {.name = "none", .attrs = {0, 1, 2}, .inputs = {{{7}}}},
            {.name = "one element", .attrs = {0.5, 1, 3}, .inputs = {{{1}}}},
            {.name = "empty", .attrs = {0.5, 1, 2}, .inputs = {{{0, 3}}}}};
  }
  static std::vector<ErrorSample<Dropout>> error_samples() {
    return {{"p = 1", {1.0, 0, 0}, {{{3}}}}, {"p < 0", {-0.1, 0, 0}, {{{3}}}}};
  }

 private:
  static Tensor masked(const Attrs& a, const Tensor& x) {
    Tensor y = x.empty_like();
    if (x.numel()) dropout_kernel(x.device().type, x.dtype(), a, x, y);
    return y;
  }
};
REGISTER_OP(Dropout)

Var dropout(const Var& x, double p, core::Generator& random) {
  return autograd::apply<Dropout>({p, random.seed(), random.next_stream(), random.base()}, x);
}

}  // namespace basis::ops
