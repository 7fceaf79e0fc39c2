// The conv_basis mixer in a model: generation with the cache equals one pass over everything; bad configs are refused.
#include <gtest/gtest.h>

#include <cmath>

#include "models/model.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/view/view.h"

namespace basis::models {
namespace {

configs::ModelConfig small_model(const std::string& type) {
  configs::ModelConfig c;
  c.family = "llama";
  c.n_layer = 2, c.n_head = 4, c.n_kv_head = 2, c.d_model = 16, c.vocab_size = 11, c.max_seq_len = 40;
  c.attention.mixer.type = type;
  c.attention.mixer.k = 5;
  return c;
}

std::vector<double> last_logits(const Model& model, Pass& pass, const std::vector<int32_t>& ids) {
  autograd::NoGrad no_grad;
  Tensor logits = model.logits(pass, Tensor::from(ids, {1, int64_t(ids.size())})).value();
  if (pass.cache) pass.cache->length += int64_t(ids.size());
  return logits.slice(1, logits.size(1) - 1, logits.size(1)).to_vector<double>();
}

// What a learned rule might have learnt: scores of either sign.
void set_scores(const Model& model) {
  for (Parameter& p : model.parameters()) {
    if (!p.init.late) continue;
    std::vector<double> values(size_t(p.var.value().numel()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = (values.size() > 2 ? 20 : 0.3) * std::cos(3.0 * double(i));
    p.var.set_value(Tensor::from(values, p.var.shape()).to(p.var.dtype()));
  }
}

TEST(ConvBasisMixer, GeneratesWhatOnePassGives) {
  for (auto [type, breakpoints] : {std::pair{"conv_basis", "uniform"},
                                   {"check", "uniform"},
                                   {"conv_basis", "staggered"},
                                   {"conv_basis", "learned"},
                                   {"conv_basis", "given"},
                                   {"check", "learned"}}) {
    configs::ModelConfig c = small_model(type);
    c.attention.mixer.candidate = "conv_basis", c.attention.mixer.breakpoints = breakpoints;
    if (breakpoints == std::string("given")) c.attention.mixer.positions = {0, 3, 4, 17, 29, 33};
    auto model = make_model(c);
    model->initialize(1, core::cpu);
    set_scores(*model);
    std::vector<int32_t> ids;
    for (int i = 0; i < 30; ++i) ids.push_back(i * i % 11);
    KeyValueCache cache;
    cache.layers.resize(2);
    Pass cached, whole;
    cached.cache = &cache;
    std::vector<double> step = last_logits(*model, cached, {ids.begin(), ids.begin() + 12});
    for (size_t n = 12; n < ids.size(); ++n) {
      auto expected = last_logits(*model, whole, {ids.begin(), ids.begin() + int64_t(n)});
      for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(step[i], expected[i], 2e-6) << type << " " << n;
      step = last_logits(*model, cached, {ids[n]});
    }
  }
}

TEST(ConvBasisMixer, LearnedBreakpointsStartAsUniformOnes) {
  configs::ModelConfig c = small_model("conv_basis");
  auto uniform = make_model(c);
  c.attention.mixer.breakpoints = "learned";
  auto learned = make_model(c);
  uniform->initialize(3, core::cpu), learned->initialize(3, core::cpu);
  EXPECT_EQ(learned->parameter_count(), uniform->parameter_count() + 2 * (2 * 2 * 4 + 2));
  Pass pass;
  std::vector<int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(i * i % 11);
  EXPECT_EQ(last_logits(*uniform, pass, ids), last_logits(*learned, pass, ids));
  set_scores(*learned);
  EXPECT_NE(last_logits(*uniform, pass, ids), last_logits(*learned, pass, ids));
}

TEST(ConvBasisMixer, LearnedBreakpointsAreCausalAndTrain) {
  configs::ModelConfig c = small_model("conv_basis");
  c.attention.mixer.breakpoints = "learned", c.attention.mixer.burst = 2;
  auto model = make_model(c);
  model->initialize(5, core::cpu);
  set_scores(*model);
  std::vector<int32_t> ids(40, 0);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(3 * i * i % 11);
  Pass pass;
  auto logits = [&] { return model->logits(pass, Tensor::from(ids, {1, 40})).value().to_vector<double>(); };
  auto before = logits();
  for (size_t t = 1; t < ids.size(); t += 4) {
    auto kept = ids[t];
    ids[t] = (ids[t] + 5) % 11;
    auto after = logits();
    for (size_t i = 0; i < t * 11; ++i) ASSERT_NEAR(before[i], after[i], 1e-5) << t << " " << i;
    ids[t] = kept;
  }
  ops::cross_entropy(ops::view(model->logits(pass, Tensor::from(ids, {1, 40})), {40, 11}), Tensor::from(ids, {40}))
      .backward();
  for (Parameter& p : model->parameters()) {
    if (!p.init.late) continue;
    double norm = 0;
    for (double g : p.var.grad().to_vector<double>()) norm += g * g;
    EXPECT_GT(norm, 1e-12) << p.path;
  }
}

TEST(ConvBasisMixer, GivenBreakpointsAreWhereTheyAreGiven) {
  configs::ModelConfig c = small_model("conv_basis");
  auto uniform = make_model(c);  // every 8 of 40
  uniform->initialize(3, core::cpu);
  std::vector<int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(i * i % 11);
  for (const auto& positions : {std::vector<double>{0, 8, 16, 24, 32}, {0, 8, 16, 24, 31}}) {
    c.attention.mixer.breakpoints = "given", c.attention.mixer.positions = positions;
    auto given = make_model(c);
    given->initialize(3, core::cpu);
    Pass pass;
    for (int twice = 0; twice < 2; ++twice)
      EXPECT_EQ(last_logits(*uniform, pass, ids) == last_logits(*given, pass, ids), positions.back() == 32);
  }
}

TEST(ConvBasisMixer, RefusesWhatItCannotHonour) {
  auto code_of = [](const configs::ModelConfig& c) {
    try {
      make_model(c);
      return core::ExitCode::ok;
    } catch (const core::Error& e) {
      return e.code();
    }
  };
  configs::ModelConfig fine = small_model("conv_basis"), zero = fine, many = fine, dropout = fine, sink = fine,
                       burst = fine, paper = fine;
  zero.attention.mixer.k = 0, many.attention.mixer.k = 41, dropout.dropout = 0.1, sink.attention.mixer.sink = 1;
  burst.attention.mixer.breakpoints = paper.attention.mixer.breakpoints = "learned";
  burst.attention.mixer.burst = 5, paper.attention.mixer.gradient = "paper";
  EXPECT_EQ(code_of(fine), core::ExitCode::ok);
  for (const auto& bad : {zero, many, dropout, sink, burst, paper}) EXPECT_EQ(code_of(bad), core::ExitCode::usage);
}

}  // namespace
}  // namespace basis::models
