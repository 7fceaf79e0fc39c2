// Tensors of more than 2^31 elements on a GPU, as long contexts have them: an index of 32 bits would wrap. Every op
// here treats rows alone, so the last rows of a large result equal the result of the last rows.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/arena.h"
#include "core/rng.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/pointwise/pointwise.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rope/rope.h"
#include "ops/view/view.h"

namespace basis::ops {
namespace {

constexpr int64_t kRows = (int64_t{1} << 21) + 8, kWidth = 1024, kTail = 8;

Tensor random(const Shape& shape, uint64_t stream) {
  core::HostRandom r(3, stream);
  std::vector<float> v(size_t(shape.numel()));
  for (float& x : v) x = 2 * r.uniform() - 1;
  return Tensor::from(v, shape).to(DType::bf16).to(core::cuda());
}

// Zeros but for the last rows.
Tensor large(uint64_t stream) {
  Tensor t = Tensor::zeros({kRows, kWidth}, DType::bf16, core::cuda());
  t.slice(0, kRows - kTail, kRows).copy_from(random({kTail, kWidth}, stream));
  return t;
}
Tensor tail(const Tensor& t) { return t.slice(0, t.size(0) - kTail, t.size(0)).contiguous(); }

using RowOp = std::function<Var(const std::vector<Var>& in, int64_t first_row)>;

// The tails of f's value and of the gradients of its inputs.
std::vector<std::vector<double>> run(const RowOp& f, std::vector<Tensor> in, Tensor cotangent, int64_t first_row) {
  std::vector<Var> vars;
  for (Tensor& t : in) vars.emplace_back(std::move(t), true);
  Var y = f(vars, first_row);
  std::vector<std::vector<double>> out{tail(y.value()).to_vector<double>()};
  y.backward(cotangent);
  for (const Var& v : vars) out.push_back(tail(v.grad()).to_vector<double>());
  return out;
}

void compare(const char* name, int inputs, const RowOp& f) {
  std::vector<Tensor> all, last;
  for (int i = 0; i < inputs; ++i) all.push_back(large(uint64_t(i))), last.push_back(tail(all.back()));
  Tensor cotangent = large(9), tail_cotangent = tail(cotangent);
  auto expected = run(f, std::move(last), tail_cotangent, kRows - kTail);
  auto got = run(f, std::move(all), cotangent, 0);
  for (size_t i = 0; i < expected.size(); ++i)
    for (size_t j = 0; j < expected[i].size(); ++j)
      ASSERT_NEAR(got[i][j], expected[i][j], 0.02 * (1 + std::abs(expected[i][j]))) << name << " " << i << " " << j;
  core::empty_cache(core::cuda());
}

TEST(LargeTensors, IndicesDoNotWrapOnAGpu) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  if (core::backend(core::DeviceType::cuda).total_memory(0) < (size_t{60} << 30)) GTEST_SKIP() << "under 60 GiB";
  Var square(random({kWidth, kWidth}, 20)), vector(random({kWidth}, 21));
  compare("add", 2, [](auto& in, int64_t) { return add(in[0], in[1]); });
  compare("add, repeated", 1, [&](auto& in, int64_t) { return add(in[0], vector); });
  compare("swiglu", 2, [](auto& in, int64_t) { return swiglu(in[0], in[1]); });
  compare("silu", 1, [](auto& in, int64_t) { return silu(in[0]); });
  compare("rms_norm", 1, [&](auto& in, int64_t) { return rms_norm(in[0], vector, 1e-5); });
  compare("add_layer_norm", 2, [&](auto& in, int64_t) { return add_layer_norm(in[0], in[1], vector, vector, 1e-5).y; });
  compare("linear", 1, [&](auto& in, int64_t) { return linear(in[0], square, vector); });
  compare("rope", 1, [](auto& in, int64_t first) {
    Var heads = view(in[0], {1, in[0].size(0), 16, 64});
    return view(rope(heads, {.theta = 3e6, .first_position = first}), in[0].shape());
  });
}

// Logits of 2^31 + 4096 elements in one piece.
TEST(LargeTensors, HeadOnAGpu) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  if (core::backend(core::DeviceType::cuda).total_memory(0) < (size_t{60} << 30)) GTEST_SKIP() << "under 60 GiB";
  constexpr int64_t rows = (int64_t{1} << 19) + 1, classes = 4096, channels = 16;
  Tensor w = random({classes, channels}, 1), x = Tensor::zeros({rows, channels}, DType::bf16, core::cuda());
  x.slice(0, rows - kTail, rows).copy_from(random({kTail, channels}, 2));
  std::vector<int32_t> targets(size_t(rows), -100);
  for (int64_t i = rows - kTail; i < rows; ++i) targets[size_t(i)] = int32_t(i % classes);
  auto gradient = [&](int64_t chunk) {
    Var in(x, true);
    Var loss = linear_cross_entropy(in, Var(w), {}, Tensor::from(targets, {rows}, core::cuda()), {.chunk = chunk});
    loss.backward();
    auto out = tail(in.grad()).to_vector<double>();
    out.push_back(loss.value().item());
    return out;
  };
  auto whole = gradient(0), parts = gradient(1 << 16);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(whole[i], parts[i], 1e-2 * (1 + std::abs(parts[i]))) << i;
  core::empty_cache(core::cuda());
}

}  // namespace
}  // namespace basis::ops
