// The chunked head with one part of its gradient wrong, which the generated checks must catch.
#include "core/gemm/gemm.h"
#include "ops/common/sum_scaled.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "tests/support/mutants.h"

namespace basis::autograd {
namespace {

using ops::LinearCrossEntropyAttrs;

enum class Wrong { nothing, overwrites, forgets_rest, counts_ignored, forgets_scale, ignores_cotangent };

// The op again, in f64, from its kernels.
template <Wrong wrong>
struct Head {
  static constexpr std::string_view name = "mutant";
  using Attrs = LinearCrossEntropyAttrs;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    int64_t n = x.size(0), chunk = a.options.chunk;
    Tensor rows = Tensor::empty({n}, x.dtype()), dx = Tensor::zeros(x.shape(), x.dtype()), dw = w.empty_like();
    for (int64_t begin = 0; begin < n; begin += chunk) {
      int64_t end = std::min(n, begin + chunk);
      Tensor z = Tensor::empty({end - begin, w.size(0)}, x.dtype()), part = x.slice(0, begin, end);
      core::matmul(part, false, w, true, z);
      Tensor targets = a.targets.slice(0, begin, end);
      ops::cross_entropy_chunk(core::DeviceType::cpu, x.dtype(), z, targets, a.options.ignore_index, true,
                               rows.slice(0, begin, end), Tensor());
      if (wrong == Wrong::counts_ignored) {  // as if their target were 0
        Tensor again = Tensor::empty({end - begin, w.size(0)}, x.dtype());
        core::matmul(part, false, w, true, again);
        ops::cross_entropy_chunk(core::DeviceType::cpu, x.dtype(), again,
                                 Tensor::zeros({end - begin}, core::DType::i32), a.options.ignore_index, true,
                                 Tensor::empty({end - begin}, x.dtype()), Tensor());
        for (int64_t i = 0; i < end - begin; ++i)
          if (targets.data<int32_t>()[i] == a.options.ignore_index)
            z.slice(0, i, i + 1).copy_from(again.slice(0, i, i + 1));
      }
      if (wrong == Wrong::forgets_rest && end - begin < chunk) continue;
      core::matmul(z, false, w, false, dx.slice(0, begin, end));
      core::matmul(z, true, part, false, dw, begin && wrong != Wrong::overwrites ? 1 : 0);
    }
    Tensor loss = Tensor::empty({}, x.dtype());
    ops::sum_scaled(core::DeviceType::cpu, x.dtype(), rows, a.options.scale, loss);
    ctx.save({dx, dw});
    return loss;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dloss) {
    double scale = wrong == Wrong::forgets_scale ? 1 : a.options.scale;
    if (wrong != Wrong::ignores_cotangent) scale *= dloss.item();
    Tensors out;
    for (size_t i = 0; i < 2; ++i) {
      auto g = ctx.saved(i).to_vector<double>();
      out.push_back(ctx.needs(int(i)) ? filled(ctx.saved(i), [&](int64_t j) { return scale * g[size_t(j)]; })
                                      : Tensor());
    }
    return out;
  }

  static std::vector<Sample<Head>> samples() {
    auto targets = Tensor::from(std::vector<int32_t>{2, 0, -1, 3, 1}, {5});
    return {{.name = "two and a half chunks",
             .attrs = {targets, {.ignore_index = -1, .scale = 0.25, .chunk = 2}},
             .inputs = {{{5, 3}}, {{4, 3}}}}};
  }
  static std::vector<ErrorSample<Head>> error_samples() { return {}; }
};

template <Wrong wrong>
size_t caught() {
  return failed<Head<wrong>>().count("differences");
}

TEST(LinearCrossEntropyMutants, AreCaught) {
  EXPECT_EQ(caught<Wrong::nothing>(), 0u);
  EXPECT_EQ(caught<Wrong::overwrites>(), 1u);
  EXPECT_EQ(caught<Wrong::forgets_rest>(), 1u);
  EXPECT_EQ(caught<Wrong::counts_ignored>(), 1u);
  EXPECT_EQ(caught<Wrong::forgets_scale>(), 1u);
  EXPECT_EQ(caught<Wrong::ignores_cotangent>(), 1u);
}

}  // namespace
}  // namespace basis::autograd
