// Wrong ops that the generated checks must catch, each by the check made for it. None is in the registry.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

#include "autograd/capture.h"
#include "autograd/gradcheck.h"

namespace basis::autograd {
namespace {

using Names = std::set<std::string>;

template <class Op>
OpEntry entry() {
  OpEntry e{.name = "mutant"};
  e.samples = [] {
    std::vector<Case> cases;
    for (const Sample<Op>& s : Op::samples()) cases.push_back(detail::erase<Op>(s));
    return cases;
  };
  e.error_samples = [] {
    std::vector<Case> cases;
    for (const ErrorSample<Op>& s : Op::error_samples()) cases.push_back(detail::erase<Op>(s));
    return cases;
  };
  return e;
}

Names failed(const OpEntry& op, DType dtype = DType::f64) {
  Names names;
  for (const CheckResult& r : check_op(op, {.dtype = dtype}))
    if (!r.pass) names.insert(r.check);
  return names;
}

template <class Op>
Names failed(DType dtype = DType::f64) {
  return failed(entry<Op>(), dtype);
}

#define EXPECT_CAUGHT(names, check) EXPECT_EQ((names).count(check), 1u) << "not caught by " << (check)

// f(i) for every element of a new tensor like `like`.
template <class F>
Tensor filled(const Tensor& like, F f) {
  Tensor y = like.empty_like();
  core::dispatch(like.dtype(), [&]<class T>(std::type_identity<T>) {
    for (int64_t i = 0; i < y.numel(); ++i) y.data<T>()[i] = core::convert<T>(f(i));
  });
  return y;
}

// y[r,c] = scale x[r,c] w[c], right in every way; the mutants below override one part of it.
template <class Op>
struct Product {
  static constexpr std::string_view name = "mutant";
  struct Attrs {
    double scale = 3;
  };
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    auto p = x.to_vector<double>(), q = w.to_vector<double>();
    if (x.dim() != 2) throw core::Error({.where = "mutant", .expected = "[R, C]", .got = x.shape().str()});
    ctx.save({x, w});
    return filled(x, [&](int64_t i) { return a.scale * p[size_t(i)] * q[size_t(i) % q.size()]; });
  }
  static Tensor dx(const Context& ctx, double scale, const Tensor& dy) {
    auto g = dy.to_vector<double>(), q = ctx.saved(1).template to_vector<double>();
    return filled(dy, [&](int64_t i) { return scale * g[size_t(i)] * q[size_t(i) % q.size()]; });
  }
  static Tensor dw(const Context& ctx, double scale, const Tensor& dy, size_t first_row = 0) {
    auto g = dy.to_vector<double>(), p = ctx.saved(0).template to_vector<double>();
    size_t columns = size_t(ctx.saved(1).numel());
    return filled(ctx.saved(1), [&](int64_t c) {
      double sum = 0;
      for (size_t i = first_row * columns + size_t(c); i < g.size(); i += columns) sum += scale * g[i] * p[i];
      return sum;
    });
  }
  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    return {ctx.needs(0) ? dx(ctx, a.scale, dy) : Tensor(), ctx.needs(1) ? dw(ctx, a.scale, dy) : Tensor()};
  }
  static std::vector<Sample<Op>> samples() {
    return {{.name = "small", .attrs = {}, .inputs = {{{3, 5}}, {{5}}}},
            {.name = "square", .attrs = {}, .inputs = {{{4, 4}}, {{4}}}},
            {.name = "empty", .attrs = {}, .inputs = {{{0, 5}}, {{5}}}}};
  }
  static std::vector<ErrorSample<Op>> error_samples() { return {{"vector", {}, {{{5}}, {{5}}}}}; }
};

struct Right : Product<Right> {};
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

struct Unwritten : Product<Unwritten> {
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    Tensor right = Product::forward(ctx, a, x, w), y = right.empty_like();
    core::dispatch(y.dtype(), [&]<class T>(std::type_identity<T>) {
      for (int64_t i = 0; i + 1 < y.numel(); ++i) y.data<T>()[i] = right.data<T>()[i];
    });
    return y;
  }
};
TEST(Mutants, LeavesTheLastElementUnwritten) { EXPECT_CAUGHT(failed<Unwritten>(), "all_written"); }

struct Accumulates : Product<Accumulates> {
  static Tensors backward(const Context& c, const Attrs& a, const Tensor& dy) {
    Tensors g = Product::backward(c, a, dy);
    if (!g[0]) return g;
    Tensor sum = g[0].empty_like();
    auto before = sum.to_vector<double>(), term = g[0].to_vector<double>();
    sum.copy_from(filled(sum, [&](int64_t i) { return before[size_t(i)] + term[size_t(i)]; }));
    return {sum, g[1]};
  }
};
TEST(Mutants, AccumulatesInsteadOfOverwriting) { EXPECT_CAUGHT(failed<Accumulates>(), "all_written"); }

struct PastTheEnd : Product<PastTheEnd> {
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    Tensor y = Product::forward(ctx, a, x, w);
    if (y.numel() == 15) static_cast<char*>(y.raw())[y.bytes()] = 1;  // 120 bytes: the block has room for one more
    return y;
  }
};
TEST(Mutants, WritesOneByteBeyondTheEnd) { EXPECT_EQ(failed<PastTheEnd>(), Names{"guards"}); }

struct Unsteady : Product<Unsteady> {
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    static int calls = 0;
    return Product::forward(ctx, {a.scale * (1 + 1e-15 * (++calls % 7))}, x, w);
  }
};
TEST(Mutants, TwoRunsDiffer) {
  EXPECT_CAUGHT(failed<Unsteady>(), "reproducible");
  OpEntry declared = entry<Unsteady>();
  declared.bit_reproducible = false;
  EXPECT_EQ(failed(declared).count("reproducible"), 0u);
}

struct SinglePrecision : Product<SinglePrecision> {
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    return Product::forward(ctx, a, x, w).to(DType::f32).to(x.dtype());
  }
};
TEST(Mutants, ComputesF64InF32) { EXPECT_CAUGHT(failed<SinglePrecision>(), "differences"); }

struct HalfPrecision : Product<HalfPrecision> {
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    Tensor y = Product::forward(ctx, a, x, w);
    return x.dtype() == DType::f32 ? y.to(DType::bf16).to(DType::f32) : y;
  }
};
TEST(Mutants, ComputesF32InBf16) { EXPECT_EQ(failed<HalfPrecision>(DType::f32), Names{"against_f64"}); }

struct AcceptsAnything : Product<AcceptsAnything> {
  static std::vector<ErrorSample<AcceptsAnything>> error_samples() { return {{"fine", {}, {{{2, 5}}, {{5}}}}}; }
};
TEST(Mutants, AcceptsABadCall) { EXPECT_EQ(failed<AcceptsAnything>(), Names{"rejects"}); }

struct ThrowsAnother : Product<ThrowsAnother> {
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    if (x.dim() != 2) throw std::runtime_error("not two axes");
    return Product::forward(ctx, a, x, w);
  }
};
TEST(Mutants, ThrowsAnotherType) { EXPECT_EQ(failed<ThrowsAnother>(), Names{"rejects"}); }

struct NeverEmpty : Product<NeverEmpty> {
  static std::vector<Sample<NeverEmpty>> samples() {
    return {{.name = "small", .attrs = {}, .inputs = {{{3, 5}}, {{5}}}}};
  }
};
TEST(Mutants, HasNoEmptySample) { EXPECT_EQ(failed<NeverEmpty>(), Names{"sizes"}); }

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
    return {{.name = "row", .attrs = {}, .inputs = {{{9}}}}, {.name = "empty", .attrs = {}, .inputs = {{{0}}}}};
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
    return {{.name = "half", .attrs = {}, .inputs = {{{8}}}}, {.name = "empty", .attrs = {}, .inputs = {{{0}}}}};
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
    return {{.name = "seven", .attrs = {1}, .inputs = {{{7}}}}, {.name = "empty", .attrs = {1}, .inputs = {{{0}}}}};
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

// Reads memory in order whatever the strides: an op that runs around the tape, which makes inputs contiguous.
TEST(Mutants, IgnoresStrides) {
  OpEntry e = entry<Right>();
  e.samples = [plain = e.samples] {
    auto cases = plain();
    for (Case& c : cases)
      c.run = [run = c.run](const std::vector<Var>& in, Device device) {
        const Tensor& x = in[0].value();
        if (x.is_contiguous() || !x.numel()) return run(in, device);
        Tensor raw = x.empty_like();
        std::copy_n(static_cast<const char*>(x.raw()), size_t(x.bytes()), static_cast<char*>(raw.raw()));
        return run({Var(raw, true), in[1]}, device);
      };
    return cases;
  };
  EXPECT_EQ(failed(e), Names{"strided"});
}

TEST(Mutants, CapturedGraphIsComparedWithAPlainRun) {
  CaptureAndReplay before = capture_service(core::DeviceType::cpu);
  set_capture_service(core::DeviceType::cpu, [](Device, const std::function<void()>& work) { work(); });
  EXPECT_EQ(failed<Right>(), Names{});
  EXPECT_CAUGHT(failed<Unsteady>(), "captured");
  set_capture_service(core::DeviceType::cpu, [](Device, const std::function<void()>&) {});
  EXPECT_EQ(failed<Right>(), Names{"captured"});
  set_capture_service(core::DeviceType::cpu, before);
}

}  // namespace
}  // namespace basis::autograd
