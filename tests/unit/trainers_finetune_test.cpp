// What fine-tuning leaves alone.
#include <gtest/gtest.h>

#include "models/model.h"
#include "trainers/optim/groups.h"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {
namespace {

using core::Tensor;

configs::ModelConfig small(const std::string& projector) {
  configs::ModelConfig c;
  c.n_layer = 2, c.n_head = 2, c.d_model = 8, c.vocab_size = 11, c.max_seq_len = 6;
  c.attention.projector.type = projector;
  return c;
}

std::vector<double> values(const models::Parameter& p) { return p.var.value().to_vector<double>(); }

TEST(Freeze, LeavesItsParametersAndBuffersAloneAndTrainsTheOthers) {
  auto model = models::make_model(small("bd"));
  model->initialize(1, core::cpu);
  freeze({.frozen = {"tokens", "layers/1"}}, model->parameters());
  Optimizer optimizer({.lr = 0.1}, model->parameters(), false);
  std::vector<std::vector<double>> before;
  for (const auto& p : model->parameters()) before.push_back(values(p));
  auto logits = model->logits({.training = true}, Tensor::from(std::vector<int32_t>{1, 5, 2, 9}, {1, 4}));
  logits.backward(Tensor::full(logits.shape(), 0.1, core::DType::f32));
  optimizer.step(0.1, 1.0);
  size_t i = 0;
  for (const auto& p : model->parameters()) {
    bool still = p.path == "tokens" || p.path.starts_with("layers/1/") || p.path.ends_with("/order");
    EXPECT_EQ(values(p) == before[i++], still) << p.path;
  }
}

TEST(Freeze, APathThatNamesNothingIsRefused) {
  auto model = models::make_model(small("dense"));
  try {
    freeze({.frozen = {"token"}}, model->parameters());  // a prefix of a name is no path
    ADD_FAILURE() << "no error";
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::ExitCode::usage);
    EXPECT_NE(std::string(e.what()).find("tokens"), std::string::npos) << e.what();
  }
}

TEST(Freeze, CountsParametersWithoutBuffers) {
  auto dense = models::make_model(small("dense")), bd = models::make_model(small("bd"));
  // Per layer: dh^2 of each of two heads from K and from V, and the key bias.
  EXPECT_EQ(dense->parameter_count() - bd->parameter_count(), 2 * (2 * 2 * 4 * 4 + 8));
}

}  // namespace
}  // namespace basis::trainers
