// Wrong gradients that the generated checks must catch, each by the check made for it. None is in the registry.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/mutants.h"

namespace basis::autograd {
namespace {

TEST(Mutants, TheRightOpPasses) {
  EXPECT_EQ(failed<Right>(), Names{});
  EXPECT_EQ(failed<Right>(DType::f32), Names{});
}

struct WrongSign : Product<WrongSign> {
  static Tensors backward(const Context& c, const Attrs& a, const Tensor& dy) {
    return {c.needs(0) ? dx(c, -a.scale, dy) : Tensor(), c.needs(1) ? dw(c, a.scale, dy) : Tensor()};
  }
};
TEST(Mutants, WrongSign) { EXPECT_EQ(failed<WrongSign>(), Names{"differences"}); }

struct SlightlyWrong : Product<SlightlyWrong> {
  static Tensors backward(const Context& c, const Attrs& a, const Tensor& dy) {
    return {c.needs(0) ? dx(c, a.scale * (1 + 2e-5), dy) : Tensor(), c.needs(1) ? dw(c, a.scale, dy) : Tensor()};
  }
};
TEST(Mutants, WrongByTwoInAHundredThousand) { EXPECT_EQ(failed<SlightlyWrong>(), Names{"differences"}); }

struct IgnoresAttrs : Product<IgnoresAttrs> {
  static Tensors backward(const Context& c, const Attrs&, const Tensor& dy) {
    return {c.needs(0) ? dx(c, 1, dy) : Tensor(), c.needs(1) ? dw(c, 1, dy) : Tensor()};
  }
};
TEST(Mutants, BackwardIgnoresAttributes) { EXPECT_EQ(failed<IgnoresAttrs>(), Names{"differences"}); }

struct MissesFirstRow : Product<MissesFirstRow> {
  static Tensors backward(const Context& c, const Attrs& a, const Tensor& dy) {
    return {c.needs(0) ? dx(c, a.scale, dy) : Tensor(), c.needs(1) ? dw(c, a.scale, dy, 1) : Tensor()};
  }
};
TEST(Mutants, BroadcastReductionMissesARow) { EXPECT_EQ(failed<MissesFirstRow>(), Names{"differences"}); }

struct DropsGradient : Product<DropsGradient> {
  static Tensors backward(const Context& c, const Attrs& a, const Tensor& dy) {
    return {c.needs(0) ? dx(c, a.scale, dy) : Tensor(), Tensor()};
  }
};
TEST(Mutants, GivesNoGradientForAnInput) { EXPECT_CAUGHT(failed<DropsGradient>(), "differences"); }

struct AsksTheWrongInput : Product<AsksTheWrongInput> {
  static Tensors backward(const Context& c, const Attrs& a, const Tensor& dy) {
    return {c.needs(0) ? dx(c, a.scale, dy) : Tensor(), c.needs(0) ? dw(c, a.scale, dy) : Tensor()};
  }
};
TEST(Mutants, AsksWhetherTheWrongInputNeedsAGradient) { EXPECT_EQ(failed<AsksTheWrongInput>(), Names{"subsets"}); }

struct SavesNothing : Product<SavesNothing> {
  static Tensor forward(Context&, const Attrs& a, const Tensor& x, const Tensor& w) {
    Context dropped;
    return Product::forward(dropped, a, x, w);
  }
};
TEST(Mutants, SavesNothing) { EXPECT_CAUGHT(failed<SavesNothing>(), "differences"); }

// Equal shapes: y = x^2 w, so that swapped gradients have the right shapes.
struct Swaps {
  static constexpr std::string_view name = "mutant";
  struct Attrs {};
  static Tensor forward(Context& ctx, const Attrs&, const Tensor& x, const Tensor& w) {
    auto p = x.to_vector<double>(), q = w.to_vector<double>();
    ctx.save({x, w});
    return filled(x, [&](int64_t i) { return p[size_t(i)] * p[size_t(i)] * q[size_t(i)]; });
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    auto p = ctx.saved(0).to_vector<double>(), q = ctx.saved(1).to_vector<double>(), g = dy.to_vector<double>();
    Tensor dx = filled(dy, [&](int64_t i) { return 2 * p[size_t(i)] * q[size_t(i)] * g[size_t(i)]; });
    Tensor dw = filled(dy, [&](int64_t i) { return p[size_t(i)] * p[size_t(i)] * g[size_t(i)]; });
    return {ctx.needs(0) ? dw : Tensor(), ctx.needs(1) ? dx : Tensor()};
  }
  static std::vector<Sample<Swaps>> samples() {
    return {{.name = "small", .attrs = {}, .inputs = {{{7}}, {{7}}}},
            {.name = "one", .attrs = {}, .inputs = {{{1}}, {{1}}}},
            {.name = "empty", .attrs = {}, .inputs = {{{0}}, {{0}}}}};
  }
  static std::vector<ErrorSample<Swaps>> error_samples() { return {}; }
};
TEST(Mutants, SwapsGradientsOfEqualShape) { EXPECT_EQ(failed<Swaps>(), Names{"differences"}); }

// Softmax of one row. `keep` selects which part of dx = y dy - y <y, dy> survives.
enum class Keep { all, nothing, first_term };
template <Keep keep>
struct Row {
  static constexpr std::string_view name = "mutant";
  struct Attrs {};
  static Tensor forward(Context& ctx, const Attrs&, const Tensor& x) {
    auto v = x.to_vector<double>();
    double z = 0;
    for (double a : v) z += std::exp(a);
    Tensor y = filled(x, [&](int64_t i) { return std::exp(v[size_t(i)]) / z; });
    ctx.save({y});
    return y;
  }
  static Tensors backward(const Context& ctx, const Attrs&, const Tensor& dy) {
    auto y = ctx.saved(0).template to_vector<double>(), g = dy.to_vector<double>();
    double dot = 0;
    for (size_t i = 0; i < y.size(); ++i) dot += y[i] * g[i];
    if (keep == Keep::first_term) dot = 0;
    double on = keep == Keep::nothing ? 0 : 1;
    return {filled(dy, [&](int64_t i) { return on * y[size_t(i)] * (g[size_t(i)] - dot); })};
  }
  static std::vector<Sample<Row>> samples() {
    return {{.name = "row", .attrs = {}, .inputs = {{{9}}}},
            {.name = "one", .attrs = {}, .inputs = {{{1}}}},
            {.name = "empty", .attrs = {}, .inputs = {{{0}}}}};
  }
  static std::vector<ErrorSample<Row>> error_samples() { return {}; }
};
TEST(Mutants, SoftmaxGradient) {
  EXPECT_EQ(failed<Row<Keep::all>>(), Names{});
  EXPECT_EQ(failed<Row<Keep::nothing>>(), Names{"differences"})
      << "sum(y) is constant: only a random cotangent sees it";
  EXPECT_EQ(failed<Row<Keep::first_term>>(), Names{"differences"});
}

// y = x m / (1 - p) whose backward forgets 1 / (1 - p).
struct Unscaled {
  static constexpr std::string_view name = "mutant";
  struct Attrs {
    double p = 0.5;
  };
  static Tensor masked(const Tensor& x, double scale) {
    auto v = x.to_vector<double>();
    return filled(x, [&](int64_t i) { return i % 3 ? scale * v[size_t(i)] : 0; });
  }
  static Tensor forward(Context&, const Attrs& a, const Tensor& x) { return masked(x, 1 / (1 - a.p)); }
  static Tensors backward(const Context&, const Attrs&, const Tensor& dy) { return {masked(dy, 1)}; }
  static std::vector<Sample<Unscaled>> samples() {
    return {{.name = "half", .attrs = {}, .inputs = {{{8}}}},
            {.name = "one", .attrs = {}, .inputs = {{{1}}}},
            {.name = "empty", .attrs = {}, .inputs = {{{0}}}}};
  }
  static std::vector<ErrorSample<Unscaled>> error_samples() { return {}; }
};
TEST(Mutants, DropoutForgetsItsScale) { EXPECT_EQ(failed<Unscaled>(), Names{"differences"}); }

// y_i = sum of x_j over j <= i - skip. Its gradient is consistent, so that only the reference (skip 0) tells them
// apart.
struct Prefix {
  static constexpr std::string_view name = "mutant";
  struct Attrs {
    int64_t skip = 0;
  };
  static Tensor forward(Context&, const Attrs& a, const Tensor& x) {
    auto v = x.to_vector<double>();
    return filled(x, [&](int64_t i) {
      double sum = 0;
      for (int64_t j = 0; j <= i - a.skip; ++j) sum += v[size_t(j)];
      return sum;
    });
  }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) {
    auto g = dy.to_vector<double>();
    return {filled(dy, [&](int64_t j) {
      double sum = 0;
      for (int64_t i = j + a.skip; i < dy.numel(); ++i) sum += g[size_t(i)];
      return sum;
    })};
  }
  static std::vector<Sample<Prefix>> samples() {
    return {{.name = "seven", .attrs = {1}, .inputs = {{{7}}}},
            {.name = "one", .attrs = {1}, .inputs = {{{1}}}},
            {.name = "empty", .attrs = {1}, .inputs = {{{0}}}}};
  }
  static std::vector<ErrorSample<Prefix>> error_samples() { return {}; }
};
OpEntry against_reference(int64_t skip) {
  OpEntry e = entry<Prefix>();
  e.samples = [skip, plain = e.samples] {
    auto cases = plain();
    for (Case& c : cases)
      c.reference = [skip](const std::vector<Var>& in, Device) { return apply_all<Prefix>({skip}, in); };
    return cases;
  };
  return e;
}
TEST(Mutants, MaskOffByOne) {
  EXPECT_EQ(failed(against_reference(1)), Names{});
  EXPECT_EQ(failed(against_reference(0)), Names{"composite"});
}

}  // namespace
}  // namespace basis::autograd
