// Conv-basis backward passes with one part wrong, which the generated checks must catch.
#include <gtest/gtest.h>

#include "autograd/gradcheck.h"
#include "ops/conv_basis/conv_basis.h"

namespace basis::ops {
namespace {

enum class Wrong { nothing, normaliser, segments, shift, triangle };

template <Wrong wrong>
struct Mutant {
  static constexpr std::string_view name = "mutant";
  using Attrs = ConvBasisOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& q, const Tensor& k, const Tensor& v) {
    Tensor o = v.empty_like(), lse = Tensor::empty({q.size(0), q.size(2), q.size(1)}, q.dtype());
    Tensor direct = Tensor::empty(lse.shape(), DType::u8);
    conv_basis_forward(DeviceType::cpu, q.dtype(), q, k, v, a, o, lse, direct);
    ctx.save({q, k, v, o, lse, direct});
    return o;
  }
  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dout) {
    const Tensor &q = ctx.saved(0), &k = ctx.saved(1), &v = ctx.saved(2), &lse = ctx.saved(4);
    Tensor dq = q.empty_like(), dk = k.empty_like(), dv = v.empty_like();
    Attrs used = a;
    if (wrong == Wrong::segments) used.k += 1;
    if (wrong == Wrong::triangle) used.causal = !a.causal;
    Tensor o = wrong == Wrong::normaliser ? Tensor::zeros(v.shape(), v.dtype()) : ctx.saved(3);
    Tensor l = lse.clone();
    if (wrong == Wrong::shift) l.data<double>()[l.numel() - 1] += 1e-3;
    conv_basis_backward(DeviceType::cpu, q.dtype(), q, k, v, o, l, ctx.saved(5), dout, used, dq, dk, dv);
    return {dq, dk, dv};
  }
  static std::vector<Sample<Mutant>> samples() {
    std::vector<InputSpec> in{{{1, 21, 1, 3}}, {{1, 21, 1, 3}}, {{1, 21, 1, 3}}};
    return {{.name = "causal", .attrs = {.k = 3, .tile = 8}, .inputs = in},
            {.name = "full", .attrs = {.k = 3, .causal = false, .tile = 8}, .inputs = in}};
  }
};

template <Wrong wrong>
int64_t caught() {
  autograd::OpEntry op{.name = "mutant"};
  op.samples = [] {
    std::vector<autograd::Case> cases;
    for (const auto& s : Mutant<wrong>::samples()) cases.push_back(autograd::detail::erase<Mutant<wrong>>(s));
    return cases;
  };
  op.error_samples = [] { return std::vector<autograd::Case>{}; };
  int64_t n = 0;
  for (const auto& r : autograd::check_op(op)) n += r.check == "differences" && !r.pass;
  return n;
}

TEST(ConvBasisMutants, AreCaught) {
  EXPECT_EQ(caught<Wrong::nothing>(), 0);
  EXPECT_EQ(caught<Wrong::normaliser>(), 2);
  EXPECT_EQ(caught<Wrong::segments>(), 2);
  EXPECT_EQ(caught<Wrong::shift>(), 2);
  EXPECT_EQ(caught<Wrong::triangle>(), 2);
}

}  // namespace
}  // namespace basis::ops
