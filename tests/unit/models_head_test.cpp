// The head in chunks of rows: the same loss and gradients as in one piece, in less memory.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/arena.h"
#include "models/model.h"

namespace basis::models {
namespace {

configs::ModelConfig small(bool tied, const std::string& chunk) {
  configs::ModelConfig c;
  c.n_layer = 1, c.n_head = 2, c.d_model = 8, c.vocab_size = 13, c.max_seq_len = 16, c.init_std = 0.3;
  c.tie_embeddings = tied, c.head_chunk = chunk;
  return c;
}

struct Sample {
  Tensor ids = Tensor::from(std::vector<int32_t>{1, 5, 2, 9, 0, 3, 3, 12, 7, 4}, {2, 5});
  Tensor targets = Tensor::from(std::vector<int32_t>{5, 2, -100, 0, 3, 3, 12, 7, 4, -100}, {10});
};

std::vector<double> loss_and_gradients(const configs::ModelConfig& c) {
  auto model = make_model(c);
  model->initialize(1, core::cpu, DType::f64);
  Sample s;
  Var loss = model->loss({.training = true, .compute = DType::f64}, s.ids, s.targets, -100, 0.125);
  loss.backward();
  std::vector<double> all{loss.value().item()};
  for (const Parameter& p : model->parameters())
    for (double g : p.var.grad().to_vector<double>()) all.push_back(g);
  return all;
}

TEST(Head, ChunksChangeNothing) {
  for (bool tied : {true, false}) {
    auto whole = loss_and_gradients(small(tied, "none"));
    for (const char* chunk : {"1", "4", "100"}) {
      auto parts = loss_and_gradients(small(tied, chunk));
      ASSERT_EQ(parts.size(), whole.size());
      for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(parts[i], whole[i], 1e-13) << chunk << " " << i;
    }
  }
}

TEST(Head, ScoresTheTargets) {
  Sample s;
  auto targets = s.targets.to_vector<int32_t>();
  for (const char* chunk : {"none", "3"}) {
    auto model = make_model(small(true, chunk));
    model->initialize(3, core::cpu, DType::f64);
    Pass pass{.compute = DType::f64};
    auto logits = model->logits(pass, s.ids).value().to_vector<double>();
    for (size_t i = 0; i < 6; i += 2) {  // three that are right
      auto row = logits.begin() + int64_t(i) * 13;
      targets[i] = int32_t(std::max_element(row, row + 13) - row);
    }
    int right = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
      auto row = logits.begin() + int64_t(i) * 13;
      right += targets[i] >= 0 && std::max_element(row, row + 13) - row == targets[i];
    }
    Tensor t = Tensor::from(targets, {10});
    auto score = model->score(pass, s.ids, t, -100);
    EXPECT_GE(right, 3);
    EXPECT_EQ(score.hits.item(), right);
    EXPECT_NEAR(score.loss.item(), model->loss(pass, s.ids, t, -100, 1).value().item(), 1e-12);
  }
}

// The first of several equal logits is the one chosen.
TEST(Head, EqualLogits) {
  Tensor x = Tensor::full({3, 2}, 1, DType::f32), w = Tensor::full({4, 2}, 1, DType::f32);
  auto score = ops::score_targets(x, w, {}, Tensor::from(std::vector<int32_t>{0, 1, 0}, {3}), {.chunk = 2});
  EXPECT_EQ(score.hits.item(), 2);
}

TEST(Head, MemoryGrowsWithTheChunkAlone) {
  constexpr int64_t rows = 2048, vocabulary = 4096, channels = 8, chunk = 32;
  Var x(Tensor::full({rows, channels}, 0.1, DType::f32), true),
      w(Tensor::zeros({vocabulary, channels}, DType::f32), true);
  Tensor targets = Tensor::zeros({rows}, DType::i32);
  core::reset_peak(core::cpu);
  int64_t before = int64_t(core::memory_stats(core::cpu).in_use);
  ops::linear_cross_entropy(x, w, {}, targets, {.scale = 1.0 / rows, .chunk = chunk}).backward();
  int64_t logits = rows * vocabulary * 4, gradients = 2 * (rows + vocabulary) * channels * 4;
  EXPECT_LT(int64_t(core::memory_stats(core::cpu).peak) - before, logits * chunk / rows + gradients + (1 << 17));
  EXPECT_LT(logits * chunk / rows + gradients + (1 << 17), logits / 16);
}

}  // namespace
}  // namespace basis::models
