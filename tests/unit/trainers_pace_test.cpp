// Re-gauged factors learn at rates under which their product moves as the dense one's (trainers/hf/pace.h).
#include "trainers/hf/pace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "core/basic/basic.h"
#include "trainers/checkpoint.h"
#include "trainers/hdf5.h"
#include "trainers/hf/regauge.h"
#include "trainers/step.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
using core::DType;
using models::Model;

configs::ModelConfig small() {
  configs::ModelConfig c;
  c.family = "gpt2", c.n_layer = 2, c.n_head = 2, c.d_model = 32, c.max_seq_len = 16, c.vocab_size = 24;
  return c;
}

std::unique_ptr<Model> dense_model() {
  auto model = models::make_model(small());
  model->initialize(5, core::cpu, DType::f64);
  return model;
}

std::map<std::string, models::Parameter> by_path(const Model& model) {
  std::map<std::string, models::Parameter> all;
  for (const models::Parameter& p : model.parameters()) all.emplace(p.path, p);
  return all;
}

// Losses of `steps` AdamW steps on one text.
std::vector<double> train(const Model& model, configs::OptimizerConfig c, int steps, double rate) {
  Optimizer optimizer(c, model.parameters(), false);
  std::vector<int32_t> ids, targets;
  core::HostRandom random(3, 0);
  for (int i = 0; i < 64; ++i) ids.push_back(int32_t(random.bits() % 24));
  for (int i = 0; i < 64; ++i) targets.push_back(ids[size_t(i / 16 * 16 + (i + 1) % 16)]);
  MicroBatch batch{Tensor::from(ids, {4, 16}), Tensor::from(targets, {64})};
  core::Generator generator(1);
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    models::Pass pass{.training = true, .compute = DType::f64, .random = &generator};
    losses.push_back(forward_backward(model, pass, {batch}, int64_t{64}, optimizer).item());
    optimizer.step(rate, 0);
  }
  return losses;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double d = 0;
  for (size_t i = 0; i < a.size(); ++i) d = std::max(d, std::abs(a[i] - b[i]));
  return d;
}

TEST(Pace, ARegaugedModelTrainsLikeTheDenseOne) {
  configs::OptimizerConfig heeded, plain;
  plain.gauge_rates = false;
  for (const char* basis : {"pivoted", "first"}) {
    auto dense = dense_model();  // what is not re-gauged is shared with the model it came from: one each
    hf::Regauged bd = hf::to_bd(*dense_model(), {.basis = basis}),
                 unheeded = hf::to_bd(*dense_model(), {.basis = basis});
    auto want = train(*dense, heeded, 30, 1e-2), got = train(*bd.model, heeded, 30, 1e-2),
         far = train(*unheeded.model, plain, 30, 1e-2);
    EXPECT_NEAR(got[0], want[0], 1e-9);
    EXPECT_LT(want[29], want[0] - 0.5) << "the dense model learns";
    EXPECT_LT(distance(got, want), 0.25 * distance(far, want)) << basis << ", plain: " << distance(far, want);
    EXPECT_LT(std::abs(got[29] - want[29]), 0.25 * std::abs(far[29] - want[29])) << basis;
  }
}

// With one head of a diagonal gauge the norms are known: k' = k / 8 and q' = 8 q in the spectral norm.
TEST(Pace, RatesAreRatiosOfThePartnersNorms) {
  auto eye = [](double scale) {
    std::vector<double> x(16, 0.0);
    for (int i = 0; i < 4; ++i) x[size_t(5 * i)] = scale * (1 + i / 8.0);
    return Tensor::from(x, {4, 4});
  };
  hf::AttentionWeights dense{eye(2), eye(4), eye(1), eye(3)}, bd{eye(16), eye(0.5), eye(10), eye(0.3)};
  auto p = hf::gauge_paces(dense, bd, 4, true, true);
  EXPECT_NEAR(p.q.rate, 8, 0.01);
  EXPECT_NEAR(p.k.rate, 1 / 8.0, 1e-4);
  EXPECT_NEAR(p.v.rate, 10, 0.01);
  EXPECT_NEAR(p.out.rate, 0.1, 1e-4);
  EXPECT_EQ(p.q.decay, 2);
  EXPECT_EQ(p.k.decay, 0);
  EXPECT_EQ(p.out.decay, 2);
  EXPECT_EQ(p.v.decay, 0);
  p = hf::gauge_paces(dense, bd, 4, false, true);
  EXPECT_EQ(p.q.rate, 1);
  EXPECT_EQ(p.k.decay, 1);
  EXPECT_NEAR(p.v.rate, 10, 0.01);
}

// Decay alone (a gradient of zero) shrinks the scores and the mixed values as it shrinks the dense ones.
TEST(Pace, WeightDecayShrinksTheProduct) {
  auto dense = dense_model();
  hf::Regauged bd = hf::to_bd(*dense, {});
  configs::OptimizerConfig c;
  c.weight_decay = 0.5;
  for (const Model* model : {static_cast<const Model*>(dense.get()), static_cast<const Model*>(bd.model.get())}) {
    Optimizer optimizer(c, model->parameters(), false);
    for (Optimizer::Slot& s : optimizer.slots()) s.parameter.set_grad(Tensor::zeros(s.parameter.shape(), DType::f64));
    optimizer.step(1e-3, 0);
  }
  auto a = by_path(*dense), b = by_path(*hf::to_dense(*bd.model));
  for (const char* pair : {"q k", "out v"}) {
    std::string first = std::string("layers/1/attention/") + (pair[0] == 'q' ? "q" : "out") + "/weight",
                second = std::string("layers/1/attention/") + (pair[0] == 'q' ? "k" : "v") + "/weight";
    auto norm = [](const models::Parameter& p) {
      double sum = 0;
      for (double x : p.var.value().to_vector<double>()) sum += x * x;
      return std::sqrt(sum);
    };
    auto before = by_path(*dense_model());
    double want = norm(a.at(first)) * norm(a.at(second)) / norm(before.at(first)) / norm(before.at(second));
    auto start = by_path(*hf::to_dense(*hf::to_bd(*dense_model(), {}).model));
    double got = norm(b.at(first)) * norm(b.at(second)) / norm(start.at(first)) / norm(start.at(second));
    EXPECT_NEAR(want, (1 - 0.5e-3) * (1 - 0.5e-3), 1e-12) << pair;
    EXPECT_NEAR(got, want, 1e-6) << pair;
  }
}

TEST(Pace, StaysInCheckpointsAndGoesWithTheGauge) {
  fs::path file = fs::temp_directory_path() / ("basis_pace_" + std::to_string(getpid()) + ".h5");
  auto dense = dense_model();
  hf::Regauged bd = hf::to_bd(*dense, {});
  save_checkpoint(file, {}, *bd.model, nullptr);
  auto again = models::make_model(bd.model->config());
  again->initialize(1, core::cpu, DType::f64);
  load_checkpoint(file, *again, nullptr);
  auto want = by_path(*bd.model), got = by_path(*again), back = by_path(*hf::to_dense(*bd.model));
  int rescaled = 0;
  for (const auto& [path, p] : want) {
    EXPECT_EQ(got.at(path).pace->rate, p.pace->rate) << path;
    EXPECT_EQ(got.at(path).pace->decay, p.pace->decay) << path;
    rescaled += p.pace->rate != 1;
  }
  EXPECT_EQ(rescaled, 2 * 6);  // q and v with their biases, k and out
  for (const auto& [path, p] : back) EXPECT_EQ(p.pace->rate, 1) << path;
  fs::remove(file);
}

TEST(Pace, IsRefusedWhereItIsNoFactor) {
  fs::path file = fs::temp_directory_path() / ("basis_pace_bad_" + std::to_string(getpid()) + ".h5");
  auto model = dense_model();
  for (double bad : {-1.0, std::nan(""), HUGE_VAL}) {
    by_path(*model).at("layers/0/attention/q/weight").pace->rate = bad;
    save_checkpoint(file, {}, *model, nullptr);
    try {
      load_checkpoint(file, *dense_model(), nullptr);
      ADD_FAILURE() << bad;
    } catch (const core::Error& e) {
      EXPECT_EQ(e.fault().code, core::ExitCode::bad_file);
      EXPECT_NE(std::string(e.what()).find("attention/q/weight, attribute rate"), std::string::npos) << e.what();
    }
  }
  fs::remove(file);
}

}  // namespace
}  // namespace basis::trainers
