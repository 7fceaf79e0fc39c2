// loss = scale sum_n [t_n != ignore] (log sum_v exp z_nv - z_n,t_n)        dz_nv = scale dloss (softmax(z_n)_v - [v =
// t_n])
#include "ops/cross_entropy/cross_entropy.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {

struct CrossEntropy {
  static constexpr std::string_view name = "cross_entropy";
  struct Attrs {
    Tensor targets;
    CrossEntropyOptions options;
    Attrs to(Device device) const { return {targets.to(device), options}; }
  };

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& z) {
    require_float(z, name);
    require(z.dim() == 2 && z.size(1) >= 1, name, "logits [N,V] with V >= 1", describe(z));
    require(a.targets.defined() && a.targets.shape() == Shape{z.size(0)} && a.targets.dtype() == DType::i32 &&
                a.targets.device() == z.device(),
            name, "i32 targets [" + std::to_string(z.size(0)) + "]", describe(a.targets));
    DType wide = z.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Tensor rows = Tensor::empty({z.size(0)}, wide, z.device()), lse = rows.empty_like();
    Tensor loss = Tensor::empty({}, wide, z.device());
    if (!z.numel()) {
      core::fill(loss, 0);
    } else {
      cross_entropy_forward(z.device().type, z.dtype(), z, a.targets.contiguous(), a.options.ignore_index, rows, lse);
      sum_scaled(z.device().type, wide, rows, a.options.scale, loss);
    }
    ctx.save({z, lse});
    return loss;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dloss) {
    const Tensor& z = ctx.saved(0);
    Tensor dz = z.is_sole_owner() ? z : z.empty_like();
    if (z.numel())
      cross_entropy_backward(z.device().type, z.dtype(), z, a.targets.contiguous(), ctx.saved(1), dloss, a.options, dz);
    return {dz};
  }

  static std::vector<Sample<CrossEntropy>> samples() {
    auto t = [](std::vector<int32_t> v) { return Tensor::from(v, {int64_t(v.size())}); };
    return {
        {.name = "mean of five",
         .attrs = {t({0, 3, 6, 2, 2}), {.scale = 0.2}},
         .inputs = {{{5, 7}, -3, 3}},
         .reduction_length = 35},
        {.name = "some ignored",
         .attrs = {t({-100, 1, -100, 0}), {.scale = 0.5}},
         .inputs = {{{4, 3}}},
         .reduction_length = 6},
        {.name = "all ignored", .attrs = {t({-1, -1}), {.ignore_index = -1}}, .inputs = {{{2, 3}}}},
        {.name = "large logits",
         .attrs = {t({1, 0}), {}},
         .inputs = {{{2, 5}, -80, 80}},
         .factor = 4,
         .reduction_length = 5},
        {.name = "one class", .attrs = {t({0, 0}), {}}, .inputs = {{{2, 1}}}},
        {.name = "wide", .attrs = {t({700}), {}}, .inputs = {{{1, 1031}}}, .reduction_length = 1031},
        {.name = "no rows", .attrs = {t({}), {}}, .inputs = {{{0, 4}}}},
    };
  }
  static std::vector<ErrorSample<CrossEntropy>> error_samples() {
    auto t = [](std::vector<int32_t> v) { return Tensor::from(v, {int64_t(v.size())}); };
    return {{"target too large", {t({0, 3}), {}}, {{{2, 3}}}, true},
            {"target negative", {t({0, -2}), {}}, {{{2, 3}}}, true},
            {"wrong count", {t({0}), {}}, {{{2, 3}}}},
            {"no classes", {t({0}), {}}, {{{1, 0}}}}};
  }
};
REGISTER_OP(CrossEntropy)

Var cross_entropy(const Var& logits, const Tensor& targets, const CrossEntropyOptions& options) {
  return autograd::apply<CrossEntropy>({targets, options}, logits);
}

}  // namespace basis::ops
