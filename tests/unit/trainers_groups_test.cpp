// train.frozen and optimizer.groups: parsing, dumping, and what the optimizer makes of them.
#include "trainers/optim/groups.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "models/model.h"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {
namespace {

using configs::parse_config;
using core::Tensor;

const char* kYaml =
    "model: {n_layer: 2, n_head: 2, d_model: 8, max_seq_len: 4, vocab_size: 5}\n"
    "data: {train: [a.txt], seq_len: 4}\n"
    "train: {frozen: [tokens, positions, 'layers/0/*']}\n"
    "optimizer:\n"
    "  groups:\n"
    "    - {match: '*/bias', lr_scale: 2}\n"
    "    - {match: 'layers/1/*', lr_scale: 0.5}\n"
    "    - match: 'layers/1/attention/q/*'\n"
    "      weight_decay: 0.25\n";

TEST(Glob, Matches) {
  EXPECT_TRUE(core::glob_match("layers/*/q/*", "layers/10/attention/q/weight"));
  EXPECT_TRUE(core::glob_match("*", ""));
  EXPECT_TRUE(core::glob_match("a?c*", "abc"));
  EXPECT_TRUE(core::glob_match("*ab", "aab"));
  EXPECT_FALSE(core::glob_match("layers/1/*", "layers/10/norm"));
  EXPECT_FALSE(core::glob_match("a?c", "ac"));
  EXPECT_FALSE(core::glob_match("", "a"));
  EXPECT_FALSE(core::glob_match("abc", "abcd"));
  EXPECT_FALSE(core::glob_match(std::string(40, '*') + "b", std::string(4000, 'a')));
}

TEST(ParameterGroups, ParseAndDump) {
  configs::Config c = parse_config(kYaml, "c.yaml");
  ASSERT_EQ(c.optimizer.groups.size(), 3u);
  EXPECT_EQ(c.optimizer.groups[0].lr_scale, std::optional(2.0));
  EXPECT_FALSE(c.optimizer.groups[0].weight_decay);
  EXPECT_EQ(c.optimizer.groups[2].weight_decay, std::optional(0.25));
  std::string dumped = dump_yaml(c);
  EXPECT_EQ(dump_yaml(parse_config(dumped, "dumped")), dumped) << dumped;
  c = parse_config(kYaml, "c.yaml", {"optimizer.groups=[{match: x, lr_scale: 3}]"});
  ASSERT_EQ(c.optimizer.groups.size(), 1u);
  EXPECT_NE(configs::config_help().find("optimizer.groups[].lr_scale"), std::string::npos);
}

struct Broken {
  const char* yaml;
  const char* says;
};

TEST(ParameterGroups, BadConfigs) {
  const Broken cases[] = {
      {"optimizer: {groups: 3}\n", "c.yaml:1:21: optimizer.groups: expected a list of maps"},
      {"optimizer: {groups: [3]}\n", "c.yaml:1:22: optimizer.groups[0]: expected a map"},
      {"optimizer: {groups: [{mtch: a}]}\n", "c.yaml:1:23: unknown key 'optimizer.groups[0].mtch' (nearest: match)"},
      {"optimizer: {groups: [{match: a, lr_scale: -1}]}\n", "optimizer.groups[0].lr_scale: expected a number"},
      {"data: {train: x}\noptimizer: {groups: [{match: a}]}\n", "expected lr_scale or weight_decay"},
      {"data: {train: x}\noptimizer: {groups: [{lr_scale: 1}]}\n", "optimizer.groups[0].match: expected a glob"},
      {"train: {frozen: {a: 1}}\n", "c.yaml:1:17: train.frozen: expected text or a list of texts"},
  };
  for (const Broken& b : cases) {
    try {
      parse_config(b.yaml, "c.yaml");
      ADD_FAILURE() << b.yaml;
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::ExitCode::usage);
      EXPECT_NE(std::string(e.what()).find(b.says), std::string::npos) << e.what();
    }
  }
}

class Groups : public testing::Test {
 protected:
  Groups() : config_(parse_config(kYaml, "c.yaml")), model_(models::make_model(config_.model)) {
    model_->initialize(1, core::cpu);
  }
  void set_gradients() {
    for (models::Parameter& p : model_->parameters())
      if (p.var.requires_grad()) p.var.set_grad(Tensor::full(p.var.shape(), 0.5, core::DType::f32));
  }
  configs::Config config_;
  std::unique_ptr<models::Model> model_;
};

TEST_F(Groups, FrozenParametersHaveNoSlotAndStay) {
  freeze(config_.train, model_->parameters());
  Optimizer optimizer(config_.optimizer, model_->parameters(), false);
  int64_t frozen = 0;
  for (models::Parameter& p : model_->parameters()) frozen += !p.var.requires_grad();
  EXPECT_EQ(int64_t(optimizer.slots().size()), int64_t(model_->parameters().size()) - frozen);
  EXPECT_GT(frozen, 10);
  for (const Optimizer::Slot& s : optimizer.slots()) {
    EXPECT_FALSE(s.path.starts_with("layers/0/") || s.path == "tokens" || s.path == "positions") << s.path;
    bool second = s.path.starts_with("layers/1/"), query = s.path.starts_with("layers/1/attention/q/");
    EXPECT_EQ(s.lr_scale, second ? 0.5 : s.path.ends_with("/bias") ? 2 : 1) << s.path;
    EXPECT_EQ(s.weight_decay, query ? 0.25 : s.parameter.dim() >= 2 ? config_.optimizer.weight_decay : 0) << s.path;
  }
}

TEST_F(Groups, EachParameterMovesByItsOwnRate) {
  for (const char* type : {"adamw", "sgd"}) {
    config_.optimizer.type = type;
    model_->initialize(1, core::cpu);
    Optimizer optimizer(config_.optimizer, model_->parameters(), false);
    std::vector<std::vector<double>> before;
    for (const Optimizer::Slot& s : optimizer.slots()) before.push_back(s.parameter.value().to_vector<double>());
    set_gradients();
    optimizer.step(0.01, 0);
    // The first step of AdamW moves by lr g / (|g| + eps), that of SGD by lr g.
    double move = type == std::string("adamw") ? 0.01 : 0.005;
    for (size_t i = 0; i < before.size(); ++i) {
      const Optimizer::Slot& s = optimizer.slots()[i];
      auto after = s.parameter.value().to_vector<double>();
      for (size_t k = 0; k < after.size(); ++k)
        ASSERT_NEAR(after[k], before[i][k] * (1 - 0.01 * s.lr_scale * s.weight_decay) - s.lr_scale * move, 1e-6)
            << type << " " << s.path;
    }
  }
}

void expect_usage(const std::function<void()>& f, const std::string& says) {
  try {
    f();
    ADD_FAILURE() << "no error about " << says;
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::ExitCode::usage);
    EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
  }
}

TEST_F(Groups, AGlobThatMatchesNothingIsAnError) {
  expect_usage([&] { freeze({.frozen = {"layer/0/*"}}, model_->parameters()); }, "train.frozen");
  expect_usage([&] { freeze({.frozen = {"*"}}, model_->parameters()); }, "left to train");
  config_.optimizer.groups[1].match = "layers/7/*";
  expect_usage([&] { Optimizer(config_.optimizer, model_->parameters(), false); }, "optimizer.groups[1].match");
}

TEST_F(Groups, AreListed) {
  std::string text = describe_groups(config_, model_->parameters());
  EXPECT_NE(text.find("# train.frozen layers/0/*: "), std::string::npos) << text;
  EXPECT_NE(text.find(" layers/1/attention/q/weight"), std::string::npos) << text;
  EXPECT_NE(text.find("# optimizer.groups[2].match layers/1/attention/q/*: 2 parameters:"), std::string::npos) << text;
}

}  // namespace
}  // namespace basis::trainers
