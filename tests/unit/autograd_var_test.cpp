#include "autograd/var.h"

#include <gtest/gtest.h>

#include "autograd/recompute.h"
#include "core/basic/basic.h"
#include "ops/softmax/softmax.h"

namespace basis {
namespace {

using autograd::Var;
using core::DType;
using core::Tensor;

Var leaf(std::vector<double> values) {
  int64_t n = int64_t(values.size());
  return Var(Tensor::from(values, {n}), true);
}

// d/dx <u, softmax(x)> against central differences, with u random enough not to be a multiple of ones.
TEST(Var, GradientOfSoftmaxMatchesDifferences) {
  std::vector<double> x0{0.3, -1.2, 2.0}, u{1.0, -2.0, 0.5};
  Var x = leaf(x0);
  ops::softmax(x).backward(Tensor::from(u, {3}));
  auto grad = x.grad().to_vector<double>();
  for (int i = 0; i < 3; ++i) {
    auto value = [&](double h) {
      std::vector<double> moved = x0;
      moved[size_t(i)] += h;
      auto y = ops::softmax(leaf(moved)).value().to_vector<double>();
      return y[0] * u[0] + y[1] * u[1] + y[2] * u[2];
    };
    EXPECT_NEAR(grad[size_t(i)], (value(1e-6) - value(-1e-6)) / 2e-6, 1e-9);
  }
}

TEST(Var, SecondBackwardThroughAFreedGraphIsAnError) {
  Var y = ops::softmax(leaf({1, 2}));
  y.backward(Tensor::full({2}, 1, DType::f64));
  EXPECT_THROW(y.backward(Tensor::full({2}, 1, DType::f64)), core::Error);
}

TEST(Var, LeafGradientsAccumulateAndHooksRunOncePerPass) {
  Var x = leaf({1, 2});
  int calls = 0;
  x.add_hook([&](Tensor&) { ++calls; });
  Var a = ops::softmax(x), b = ops::softmax(x);
  Tensor u = Tensor::from(std::vector<double>{1, 0}, {2});
  autograd::backward({a, b}, {u, u});
  EXPECT_EQ(calls, 1);
  Var once = leaf({1, 2});
  ops::softmax(once).backward(u);
  EXPECT_DOUBLE_EQ(x.grad().to_vector<double>()[0], 2 * once.grad().to_vector<double>()[0]);
}

TEST(Var, NoGradRecordsNothing) {
  Var x = leaf({1, 2});
  autograd::NoGrad guard;
  EXPECT_FALSE(ops::softmax(x).requires_grad());
}

TEST(Var, LongChainsAreDestroyedWithoutRecursion) {
  Var y = leaf({1, 2});
  for (int i = 0; i < 200000; ++i) y = ops::softmax(y);
}

TEST(Var, GradientsKeptApartLeaveTheAccumulatorsAlone) {
  Tensor u = Tensor::from(std::vector<double>{1, -1, 3}, {3});
  Var a = leaf({1, 2, 0.5}), b = leaf({1, 2, 0.5}), unused = leaf({1});
  ops::softmax(a).backward(u);
  std::vector<Tensor> got = autograd::gradients(ops::softmax(b), {b, unused}, u);
  EXPECT_EQ(got.at(0).to_vector<double>(), a.grad().to_vector<double>());
  EXPECT_FALSE(got.at(1).defined());
  EXPECT_FALSE(b.grad().defined());
  Var inner = ops::softmax(b);
  EXPECT_THROW(autograd::gradients(ops::softmax(inner), {inner}, u), core::Error);
}

TEST(Recompute, GivesTheSameGradient) {
  Tensor u = Tensor::from(std::vector<double>{1, -1, 3}, {3});
  auto f = [](const std::vector<Var>& v) { return std::vector<Var>{ops::softmax(ops::softmax(v[0]))}; };
  Var a = leaf({1, 2, 0.5}), b = leaf({1, 2, 0.5});
  f({a})[0].backward(u);
  autograd::recompute(f, {b})[0].backward(u);
  EXPECT_EQ(a.grad().to_vector<double>(), b.grad().to_vector<double>());
}

TEST(Arena, CheckingModeFillsWithNaNAndFindsDamagedGuards) {
  core::CheckedMemory checked;
  Tensor t = Tensor::empty({5}, DType::f32);
  for (double v : t.to_vector<double>()) EXPECT_TRUE(v != v);
  EXPECT_EQ(checked.damaged(), 0);
  t.data<float>()[5] = 1;
  EXPECT_EQ(checked.damaged(), 1);
  t.data<float>()[5] = std::bit_cast<float>(0xA5A5A5A5);
}

}  // namespace
}  // namespace basis
