// Breakpoints by score: against the rule's words, and on the GPU against the CPU.
#include "ops/conv_basis/place.h"

#include <gtest/gtest.h>

#include "core/rng.h"

namespace basis::ops {
namespace {

struct Case {
  int64_t B, T, Hkv, H;
  PlaceOptions o;
  double shift;  // added to scores: how many are positive
};
const Case kCases[] = {{2, 50, 2, 4, {.k = 7, .segment = 8}, 0},
                       {1, 50, 1, 3, {.k = 7, .segment = 8, .burst = 3}, -1},
                       {1, 3000, 2, 2, {.k = 40, .segment = 75}, -2},
                       {1, 3000, 2, 2, {.k = 40, .segment = 75, .burst = 39}, 5},
                       {2, 2049, 3, 6, {.k = 200, .segment = 10, .stagger = true}, -1},
                       {1, 1, 1, 1, {.k = 3, .segment = 1}, 0},
                       {1, 9, 1, 1, {.k = 20, .segment = 1}, 100},
                       {1, 0, 1, 2, {.k = 2, .segment = 4}, 0}};

Tensor scores(const Case& c) {
  core::HostRandom random(3, 5);
  std::vector<double> s(size_t(c.B * c.T * c.Hkv));
  for (double& x : s) x = random.normal() + c.shift;
  return Tensor::from(s, {c.B, c.T, c.Hkv}).to(DType::f32);
}
std::vector<int32_t> placed(const Case& c, const Tensor& score, core::Device device = core::cpu) {
  Tensor q = Tensor::zeros({c.B, c.T, c.H, 2}, DType::f32, device);
  return place_breakpoints(q, score.to(device), c.o).to(core::cpu).to_vector<int32_t>();
}

TEST(PlaceBreakpoints, FollowsItsRule) {
  for (const Case& c : kCases) {
    auto got = placed(c, scores(c));
    auto s = scores(c).to_vector<double>();
    for (int64_t b = 0; b < c.B; ++b)
      for (int64_t h = 0; h < c.H; ++h) {
        std::vector<int32_t> want{0};
        int64_t offset = c.o.stagger ? h * c.o.segment / c.H : 0;
        for (int64_t t = 1; t < c.T; ++t)
          if (s[size_t((b * c.T + t) * c.Hkv + h / (c.H / c.Hkv))] >= 0 && int64_t(want.size()) < c.o.k &&
              int64_t(want.size()) <= c.o.burst + (t + offset) / c.o.segment)
            want.push_back(int32_t(t));
        while (int64_t(want.size()) < c.o.k) want.push_back(int32_t(std::max<int64_t>(1, c.T)) + int32_t(want.size()));
        auto at = got.begin() + (b * c.H + h) * c.o.k;
        EXPECT_EQ(std::vector<int32_t>(at, at + c.o.k), want) << "T " << c.T << " head " << h;
      }
  }
}

TEST(PlaceBreakpoints, WithoutScoresTheyAreUniformOrStaggered) {
  EXPECT_EQ(placed({1, 20, 1, 1, {.k = 5, .segment = 4}, 0}, {}), (std::vector<int32_t>{0, 4, 8, 12, 16}));
  EXPECT_EQ(placed({1, 20, 1, 2, {.k = 5, .segment = 4, .stagger = true}, 0}, {}),
            (std::vector<int32_t>{0, 4, 8, 12, 16, 0, 2, 6, 10, 14}));
}

TEST(PlaceBreakpoints, APrefixHasTheSameOnes) {
  Case c{1, 300, 2, 2, {.k = 12, .segment = 25, .burst = 2}, -1};
  auto whole = placed(c, scores(c));
  Case part = c;
  for (part.T = 1; part.T < c.T; part.T += 13) {
    auto prefix = placed(part, scores(c).slice(1, 0, part.T).contiguous());
    for (size_t i = 0; i < prefix.size(); ++i) EXPECT_TRUE(prefix[i] == whole[i] || prefix[i] >= part.T) << part.T;
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(whole[i] >= part.T || prefix[i] == whole[i]) << part.T;
  }
}

TEST(PlaceBreakpoints, RefusesWhatDoesNotAgree) {
  Tensor q = Tensor::zeros({1, 4, 3, 2}, DType::f32);
  EXPECT_THROW(place_breakpoints(q, Tensor::zeros({1, 4, 2}, DType::f32), {}), core::Error);
  EXPECT_THROW(place_breakpoints(q, Tensor::zeros({1, 5, 3}, DType::f32), {}), core::Error);
  EXPECT_THROW(place_breakpoints(q, {}, {.k = 0}), core::Error);
  EXPECT_THROW(place_breakpoints(q, {}, {.segment = 0}), core::Error);
  EXPECT_THROW(place_breakpoints(q, {}, {.burst = -1}), core::Error);
}

TEST(PlaceBreakpoints, CudaAgreesWithTheCpu) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  for (const Case& c : kCases) {
    EXPECT_EQ(placed(c, scores(c), core::cuda(0)), placed(c, scores(c))) << "T " << c.T;
    EXPECT_EQ(placed(c, {}, core::cuda(0)), placed(c, {})) << "T " << c.T;
  }
}

}  // namespace
}  // namespace basis::ops
