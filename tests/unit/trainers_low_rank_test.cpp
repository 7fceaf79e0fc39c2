// Low rank of whole models, as two factors and in Basis Decomposition: what keeps the function, what is saved, what
// calibration gains; files, training and refusals.
#include "trainers/hf/low_rank.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/factor/low_rank.h"
#include "core/rng.h"
#include "trainers/data/files.h"
#include "trainers/data/shard.h"
#include "trainers/hf/convert.h"
#include "trainers/hf/directory.h"
#include "trainers/session.h"
#include "trainers/trainer.h"

namespace basis::trainers::hf {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;

constexpr int64_t kTime = 9, kVocabulary = 256;

configs::ModelConfig config(const std::string& family) {
  configs::ModelConfig c;
  c.family = family;
  c.n_layer = 2, c.n_head = 4, c.d_model = 24, c.d_ff = 40, c.vocab_size = kVocabulary, c.max_seq_len = 16;
  c.n_kv_head = family == "llama" ? 2 : 0;
  return c;
}

std::unique_ptr<models::Model> random_model(const configs::ModelConfig& c, DType dtype = DType::f64) {
  auto model = models::make_model(c);
  model->initialize(1, core::cpu, dtype);
  core::HostRandom random(3, 0);
  for (models::Parameter& p : model->parameters()) {
    if (p.buffer) continue;
    std::vector<double> v(size_t(p.var.value().numel()));
    double one = p.var.dim() == 1 && p.path.ends_with("weight") ? 1 : 0;
    for (double& x : v) x = 0.2 * random.normal() + one;
    p.var.set_value(Tensor::from(v, p.var.shape()).to(dtype));
  }
  return model;
}

std::vector<double> logits(const models::Model& m) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kTime; ++i) ids.push_back(int32_t(i * i % kVocabulary));
  autograd::NoGrad no_grad;
  models::Pass pass{.compute = m.parameters()[0].var.dtype()};
  return m.logits(pass, Tensor::from(ids, {1, kTime})).value().to_vector<double>();
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double d = a.size() == b.size() ? 0 : HUGE_VAL;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) d = std::max(d, std::abs(a[i] - b[i]));
  return d;
}

class LowRankFamilies : public ::testing::TestWithParam<std::string> {};

TEST_P(LowRankFamilies, BasisDecompositionKeepsWhatLowRankLeft) {
  auto dense = random_model(config(GetParam()));
  for (bool mlp : {false, true}) {
    LowRankModel low = to_low_rank(*dense, {.keep = 0.5, .mlp = mlp});
    auto want = logits(*low.model);
    EXPECT_GT(difference(want, logits(*dense)), 1e-3);
    LowRankModel bd = to_low_rank_bd(*low.model);
    EXPECT_LE(difference(logits(*bd.model), want), 1e-10);
    EXPECT_LE(difference(logits(*multiply_out(*low.model)), want), 1e-10);
    EXPECT_LE(difference(logits(*multiply_out(*bd.model)), want), 1e-10);
    int64_t saved = 0;
    for (const auto& layer : bd.layers)
      for (const auto& [name, row] : layer.items()) saved += int64_t(std::pow(row["rank"].get<double>(), 2));
    EXPECT_EQ(low.model->parameter_count() - bd.model->parameter_count(), saved);
    EXPECT_TRUE(has_factors(low.model->config()) && has_low_rank(bd.model->config()));
    EXPECT_FALSE(has_factors(bd.model->config()) || has_low_rank(multiply_out(*bd.model)->config()));
  }
}

TEST_P(LowRankFamilies, AModelOfLowRankIsFoundAgain) {
  auto model = multiply_out(*to_low_rank(*random_model(config(GetParam())), {.keep = 0.5}).model);
  EXPECT_LE(difference(logits(*to_low_rank(*model, {.keep = 0.5}).model), logits(*model)), 1e-6);
  EXPECT_GT(difference(logits(*to_low_rank(*model, {.keep = 0.4}).model), logits(*model)), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(All, LowRankFamilies, ::testing::Values("gpt2", "llama", "bert"),
                         [](const auto& info) { return info.param; });

TEST(LowRankModels, TrainFromScratchInBothForms) {
  for (const char* form : {"factors", "bd"}) {
    auto c = config("gpt2");
    c.attention.projector = {.type = "low_rank", .q_rank = 5, .v_rank = 7, .out_rank = 6, .form = form};
    c.mlp = {.up_rank = 9, .down_rank = 8, .form = form};
    auto model = models::make_model(c);
    model->initialize(1, core::cpu, DType::f64);
    Tensor ids = Tensor::from(std::vector<int32_t>{3, 1, 4, 1, 5}, {1, 5});
    models::Var y = model->logits({.training = true, .compute = DType::f64}, ids);
    y.backward(Tensor::full(y.shape(), 1e-2, DType::f64));
    for (const models::Parameter& p : model->parameters()) {
      if (p.buffer || p.path.ends_with("k/bias")) continue;
      double size = 0;
      for (double g : p.var.grad().to_vector<double>()) size += std::abs(g);
      EXPECT_GT(size, 0) << form << " " << p.path;
    }
  }
}

TEST(LowRankModels, WhatIsNoLowRankIsRefused) {
  auto code_of = [](configs::ModelConfig c) {
    try {
      models::make_model(c);
      return core::ExitCode::ok;
    } catch (const core::Error& e) {
      return e.code();
    }
  };
  auto c = config("gpt2");
  c.attention.projector = {.type = "low_rank", .q_rank = 23};
  EXPECT_EQ(code_of(c), core::ExitCode::ok);
  c.attention.projector.q_rank = 24;
  EXPECT_EQ(code_of(c), core::ExitCode::usage);
  c = config("gpt2"), c.mlp.up_rank = 4, c.mlp_epilogue = true;
  EXPECT_EQ(code_of(c), core::ExitCode::usage);
  c = config("deepseek_v2"), c.attention.projector.type = "low_rank";
  EXPECT_EQ(code_of(c), core::ExitCode::usage);
  EXPECT_THROW(to_low_rank(*random_model(config("deepseek_v2")), {}), core::Error);
  EXPECT_THROW(to_low_rank(*random_model(config("gpt2")), {.keep = 0.01}), core::Error);
}

class LowRankFiles : public ::testing::Test {
 protected:
  fs::path dir_ = fs::temp_directory_path() / ("basis_low_rank_" + std::to_string(::getpid()));
  void SetUp() override {
    fs::create_directories(dir_ / "source" / "checkpoints");
    fs::create_directories(dir_ / "hf");
    write_directory(dir_ / "hf", *random_model(config("gpt2"), DType::f32), DType::f32, nullptr);
    std::string text;
    for (int i = 0; i < 900; ++i) text += char('a' + i * i % 7 + i % 3);
    std::ofstream(dir_ / "text.txt") << text;
  }
  void TearDown() override { fs::remove_all(dir_); }
};

TEST_F(LowRankFiles, ConvertsRegaugesTrainsAndExports) {
  auto low = convert({.source = dir_ / "hf", .destination = dir_ / "low", .projector = "low_rank", .keep = 0.5});
  EXPECT_GT(low["approximation"]["max_difference"].get<double>(), 1e-3);
  EXPECT_LT(low["after"]["bytes"], low["before"]["bytes"]);
  EXPECT_NE(describe(low).find("attention/out"), std::string::npos);
  auto bd = convert({.source = dir_ / "low", .destination = dir_ / "bd", .projector = "low_rank_bd"});
  EXPECT_FALSE(bd.contains("approximation"));  // only another form
  EXPECT_LT(bd["after"]["bytes"], low["after"]["bytes"]);
  auto direct =
      convert({.source = dir_ / "hf", .destination = dir_ / "direct", .projector = "low_rank_bd", .keep = 0.5});
  EXPECT_GT(direct["low_rank"][0]["mlp/up"]["rank"], low["low_rank"][0]["mlp/up"]["rank"]);
  auto want = logits(*load_model((dir_ / "bd").string(), {}).model);
  convert({.source = dir_ / "bd", .destination = dir_ / "back"});
  EXPECT_LE(difference(logits(*read_directory(dir_ / "back").model), want), 1e-3);

  std::ofstream(dir_ / "tune.yaml") << "run: {name: tuned, out_dir: " << dir_.string() << ", device: cpu}\n"
                                    << "data: {train: [" << (dir_ / "text.txt").string()
                                    << "], val: [], seq_len: 8, tokenizer: byte}\n"
                                    << "train: {init_from: " << (dir_ / "bd").string()
                                    << ", global_batch: 2, max_steps: 2}\noptimizer: {lr: 0}\n";
  ASSERT_EQ(train(load_training_config((dir_ / "tune.yaml").string(), {})), 0);
  EXPECT_EQ(logits(*load_model((dir_ / "tuned").string(), {}).model), want);  // at a rate of 0 the weights stay
}

TEST_F(LowRankFiles, RefusesWhatItCannotMean) {
  auto refused = [&](const ConvertOptions& o) {
    try {
      convert(o);
      return core::ExitCode::ok;
    } catch (const core::Error& e) {
      EXPECT_FALSE(fs::exists(o.destination));
      return e.code();
    }
  };
  ConvertOptions o{.source = dir_ / "hf", .destination = dir_ / "x", .projector = "low_rank"};
  EXPECT_EQ(refused(o), core::ExitCode::usage);  // how low?
  o.keep = 0.5, o.to = "hf";
  EXPECT_EQ(refused(o), core::ExitCode::usage);
  o.to = "", o.calibration = dir_ / "text.txt";
  EXPECT_EQ(refused(o), core::ExitCode::usage);  // no tokenizer
}

// On the text it was calibrated on, weighing by activations loses less.
TEST_F(LowRankFiles, CalibrationServesTheTextItSaw) {
  auto model = random_model(config("gpt2"));
  Calibration c = calibrate(*model, byte_tokenizer(), dir_ / "text.txt", 512);
  ASSERT_EQ(c.size(), 12u);
  EXPECT_TRUE(
      c.at("layers/0/attention/q/weight").square.shares_memory_with(c.at("layers/0/attention/k/weight").square));
  EXPECT_FALSE(c.at("layers/0/mlp/up/weight").square.shares_memory_with(c.at("layers/0/attention/k/weight").square));
  std::vector<uint32_t> text = byte_tokenizer()->encode("abcabdacefgabcde");
  std::vector<int32_t> ids(text.begin(), text.end());
  auto of = [&](const models::Model& m) {
    autograd::NoGrad no_grad;
    return m.logits({.compute = DType::f64}, Tensor::from(ids, {1, 16})).value().to_vector<double>();
  };
  auto want = of(*model), plain = of(*to_low_rank(*model, {.keep = 0.5}).model),
       weighed = of(*to_low_rank(*model, {.keep = 0.5, .calibration = c}).model);
  EXPECT_LT(1.3 * difference(weighed, want), difference(plain, want));
  EXPECT_THROW(calibrate(*model, byte_tokenizer(), dir_ / "text.txt", 8), core::Error);
  EXPECT_THROW(calibrate(*model, byte_tokenizer(), dir_ / "none.txt", 512), core::Error);
  EXPECT_THROW(calibrate(*model, nullptr, dir_ / "text.txt", 512), core::Error);
  std::string text_file = read_file(dir_ / "text.txt");
  write_shard(dir_ / "text.h5", byte_tokenizer()->encode(text_file), std::vector<uint64_t>{0}, *byte_tokenizer());
  Calibration of_shard = calibrate(*model, nullptr, dir_ / "text.h5", 512);
  for (const auto& [path, m] : c)
    EXPECT_EQ(of_shard.at(path).square.to_vector<double>(), m.square.to_vector<double>()) << path;
}

}  // namespace
}  // namespace basis::trainers::hf
