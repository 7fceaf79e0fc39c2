#include <gtest/gtest.h>

#include "core/rng.h"
#include "models/attention/attention.h"

namespace basis::models {
namespace {

Var random(const Shape& shape, uint64_t stream) {
  core::HostRandom r(5, stream);
  std::vector<float> values(size_t(shape.numel()));
  for (float& v : values) v = float(r.normal());
  return Var(Tensor::from(values, shape));
}

struct TopK : testing::TestWithParam<bool> {
  Var q = random({2, 9, 4, 8}, 1), k = random({2, 9, 2, 8}, 2), v = random({2, 9, 2, 8}, 3);
  std::vector<float> mixed(const std::string& type, int64_t kept, int64_t window = 0) {
    return make_mixer({.type = type, .causal = GetParam(), .window = window, .k = kept})
        ->mix(Pass{}, q, k, v)
        .value()
        .to_vector<float>();
  }
};

TEST_P(TopK, AllKeysAreExactAttention) {
  auto want = mixed("naive", 1), got = mixed("topk", 9);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5) << i;
}

TEST_P(TopK, OneKeyIsTheValueOfTheLargestLogit) {
  auto got = mixed("topk", 1);
  auto qs = q.value().to_vector<float>(), ks = k.value().to_vector<float>(), vs = v.value().to_vector<float>();
  for (int64_t row = 0; row < 2 * 9 * 4; ++row) {
    int64_t b = row / 36, t = row / 4 % 9, g = row % 4 / 2, best = 0;
    auto at = [&](int64_t j) { return size_t(((b * 9 + j) * 2 + g) * 8); };
    float high = -1e30f;
    for (int64_t j = 0; j < (GetParam() ? t + 1 : 9); ++j) {
      float logit = 0;
      for (size_t c = 0; c < 8; ++c) logit += qs[size_t(row) * 8 + c] * ks[at(j) + c];
      if (logit > high) high = logit, best = j;
    }
    for (size_t c = 0; c < 8; ++c) ASSERT_EQ(got[size_t(row) * 8 + c], vs[at(best) + c]) << row;
  }
}

TEST_P(TopK, RefusesAGradientAndNoKeys) {
  Var needs(q.value(), true);
  auto mixer = make_mixer({.type = "topk", .causal = GetParam(), .k = 3});
  EXPECT_THROW(mixer->mix(Pass{}, needs, k, v), core::Error);
  EXPECT_THROW(make_mixer({.type = "topk", .k = 0}), core::Error);
}

INSTANTIATE_TEST_SUITE_P(CausalAndFull, TopK, testing::Bool());

}  // namespace
}  // namespace basis::models
