// x' = scale x
// elu:     y = x' + 1 (x' > 0), else exp(x')                        dx' = dy, else dy y
// taylor:  y = (1, x'_i, x'_i^2 / sqrt 2 and x'_i x'_j for i < j)   dx'_i = dy_i + sum_j dy_ij x'_j (sqrt 2 for j = i)
// random:  y_f = exp(w_f . x' - |x'|^2 / 2) / sqrt r                dx' = sum_f dy_f y_f (w_f - x')
#include "ops/attention_features/attention_features.h"

#include <algorithm>
#include <cmath>

#include "autograd/registry.h"
#include "core/basic/basic.h"
#include "core/rng.h"

namespace basis::ops {

double taylor_error_bound(double bound, int degree) {
  double term = std::exp(bound);
  for (int n = 1; n <= degree + 1; ++n) term *= bound / n;
  return term;
}

int64_t feature_count(const FeatureOptions& o, int64_t D) {
  if (o.kind == Features::elu) return D;
  if (o.kind == Features::random) return o.directions.size(1);
  return 1 + D + (o.degree == 2 ? D * (D + 1) / 2 : 0);
}

Tensor random_directions(int64_t D, int64_t r, uint64_t seed) {
  std::vector<float> w(size_t(D * r));
  core::HostRandom random(seed, 0);
  for (float& x : w) x = float(random.normal());
  return Tensor::from(w, {D, r});
}

struct AttentionFeatures {
  static constexpr std::string_view name = "attention_features";
  using Attrs = FeatureOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x) {
    require_float(x, name);
    require(x.dim() >= 1 && x.size(-1) >= 1, name, "a last axis of at least 1", describe(x));
    require(a.kind != Features::taylor || a.degree == 1 || a.degree == 2, name, "degree 1 or 2",
            std::to_string(a.degree));
    if (a.kind == Features::random)
      require(a.directions && a.directions.dim() == 2 && a.directions.size(0) == x.size(-1) &&
                  a.directions.size(1) >= 1 && a.directions.dtype() == DType::f32 &&
                  a.directions.device() == x.device() && a.directions.is_contiguous(),
              name, "directions f32 [D, r] on x's device", describe(a.directions));
    Shape shape = x.shape();
    shape[x.dim() - 1] = feature_count(a, x.size(-1));
    Tensor y = Tensor::empty(shape, x.dtype(), x.device());
    if (y.numel()) attention_features_forward(x.device().type, x.dtype(), rows(x), scaled(a, x), rows(y));
    ctx.save({x, a.kind == Features::taylor ? Tensor() : y});
    return y;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    const Tensor &x = ctx.saved(0), &y = ctx.saved(1);
    Tensor dx = x.empty_like();
    if (dy.numel())
      attention_features_backward(x.device().type, x.dtype(), rows(x), y ? rows(y) : y, rows(dy), scaled(a, x),
                                  rows(dx));
    return {dx};
  }

  static std::vector<Sample<AttentionFeatures>> samples() {
    Attrs elu, first{.kind = Features::taylor, .degree = 1}, second{.kind = Features::taylor},
        random{.kind = Features::random};
    elu.scale = 1.5;
    random.directions = random_directions(5, 37, 3);
    return {
        {.name = "elu", .attrs = elu, .inputs = {{{2, 3, 2, 9}, -3, 3}}, .factor = 4},
        {.name = "taylor 1", .attrs = first, .inputs = {{{2, 5, 3}}}, .factor = 4},
        {.name = "taylor 2", .attrs = second, .inputs = {{{3, 7}, -2, 2}}, .factor = 4, .reduction_length = 8},
        {.name = "taylor 2, wide", .attrs = second, .inputs = {{{2, 67}}}, .factor = 4, .reduction_length = 68},
        {.name = "random", .attrs = random, .inputs = {{{2, 4, 5}, -2, 2}}, .factor = 16, .reduction_length = 37},
        {.name = "one", .attrs = second, .inputs = {{{1, 1}}}, .factor = 4},
        {.name = "empty", .attrs = elu, .inputs = {{{0, 4}}}},
    };
  }
  static std::vector<ErrorSample<AttentionFeatures>> error_samples() {
    Attrs cubic{.kind = Features::taylor, .degree = 3}, none{.kind = Features::random}, other = none;
    other.directions = random_directions(3, 2, 1);
    return {{"scalar", {}, {{{}}}},
            {"degree 3", cubic, {{{2, 4}}}},
            {"no directions", none, {{{2, 4}}}},
            {"directions of 3 channels", other, {{{2, 4}}}}};
  }

 private:
  static Tensor rows(const Tensor& x) { return x.view({x.numel() / std::max<int64_t>(1, x.size(-1)), x.size(-1)}); }
  static Attrs scaled(Attrs a, const Tensor& x) {
    if (a.scale == 0) a.scale = a.kind == Features::elu ? 1 : std::pow(double(x.size(-1)), -0.25);
    return a;
  }
};
REGISTER_OP(AttentionFeatures)

Var attention_features(const Var& x, const FeatureOptions& options) {
  return autograd::apply<AttentionFeatures>(options, x);
}

}  // namespace basis::ops
