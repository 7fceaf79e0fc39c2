// The conv_basis mixer in a model: generation with the cache equals one pass over everything; bad configs are refused.
#include <gtest/gtest.h>

#include <cmath>

#include "models/model.h"

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

TEST(ConvBasisMixer, GeneratesWhatOnePassGives) {
  for (const char* type : {"conv_basis", "check"}) {
    configs::ModelConfig c = small_model(type);
    c.attention.mixer.candidate = "conv_basis";
    auto model = make_model(c);
    model->initialize(1, core::cpu);
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

TEST(ConvBasisMixer, RefusesWhatItCannotHonour) {
  auto code_of = [](const configs::ModelConfig& c) {
    try {
      make_model(c);
      return core::ExitCode::ok;
    } catch (const core::Error& e) {
      return e.code();
    }
  };
  configs::ModelConfig fine = small_model("conv_basis"), zero = fine, many = fine, dropout = fine, sink = fine;
  zero.attention.mixer.k = 0, many.attention.mixer.k = 41, dropout.dropout = 0.1, sink.attention.mixer.sink = 1;
  EXPECT_EQ(code_of(fine), core::ExitCode::ok);
  for (const auto& bad : {zero, many, dropout, sink}) EXPECT_EQ(code_of(bad), core::ExitCode::usage);
}

}  // namespace
}  // namespace basis::models
