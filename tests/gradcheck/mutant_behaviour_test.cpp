// Ops right in value but wrong otherwise: memory, precision, reproducibility, refusals, strides, captured graphs.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "autograd/capture.h"
#include "tests/support/mutants.h"

namespace basis::autograd {
namespace {

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
    return {{.name = "small", .attrs = {}, .inputs = {{{1, 5}}, {{5}}}}};
  }
};
TEST(Mutants, HasNoEmptySample) { EXPECT_EQ(failed<NeverEmpty>(), Names{"sizes"}); }

struct NeverOne : Product<NeverOne> {
  static std::vector<Sample<NeverOne>> samples() {
    return {{.name = "small", .attrs = {}, .inputs = {{{3, 5}}, {{5}}}},
            {.name = "empty", .attrs = {}, .inputs = {{{0, 5}}, {{5}}}}};
  }
};
TEST(Mutants, HasNoSampleWithAnAxisOfOne) { EXPECT_EQ(failed<NeverOne>(), Names{"sizes"}); }

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
