// low_rank_attention against the T x S matrix it never holds, for every mask; causality; sums that are never
// subtracted.
#include "ops/low_rank_attention/low_rank_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace basis::ops {
namespace {

using Dense = std::vector<uint8_t>;  // [groups, T, S]

struct Case {
  int64_t B = 1, T = 1, S = 1, H = 1, Hkv = 1, r = 1, Dv = 1;
  Tensor u1, u2, v, dy;

  void fill(std::mt19937& random, double low = 0.05) {
    auto draw = [&](const Shape& shape, double from, double to) {
      std::vector<double> values(size_t(shape.numel()));
      std::uniform_real_distribution<double> uniform(from, to);
      for (double& x : values) x = uniform(random);
      return Tensor::from(values, shape);
    };
    u1 = draw({B, T, H, r}, low, 1), u2 = draw({B, S, Hkv, r}, low, 1);
    v = draw({B, S, Hkv, Dv}, -1, 1), dy = draw({B, T, H, Dv}, -1, 1);
  }
};

struct Result {
  std::vector<double> y, du1, du2, dv;
};

Result naive(const Case& c, const Dense& visible, const std::vector<int32_t>& lengths = {}) {
  int64_t groups = int64_t(visible.size()) / (c.T * c.S), group = c.H / c.Hkv;
  Result out{std::vector<double>(size_t(c.B * c.T * c.H * c.Dv)), std::vector<double>(size_t(c.u1.numel())),
             std::vector<double>(size_t(c.u2.numel())), std::vector<double>(size_t(c.v.numel()))};
  const double *u1 = c.u1.data<double>(), *u2 = c.u2.data<double>(), *v = c.v.data<double>(), *dy = c.dy.data<double>();
  for (int64_t b = 0; b < c.B; ++b)
    for (int64_t h = 0; h < c.H; ++h)
      for (int64_t i = 0; i < c.T; ++i) {
        int64_t row = (b * c.T + i) * c.H + h;
        std::vector<double> p(size_t(c.S), 0.0);
        double mass = 0, mean = 0;
        auto key = [&](int64_t j) { return (b * c.S + j) * c.Hkv + h / group; };
        for (int64_t j = 0; j < c.S; ++j) {
          if (!visible[size_t((h * groups / c.H * c.T + i) * c.S + j)]) continue;
          if (!lengths.empty() && j >= lengths[size_t(b)]) continue;
          for (int64_t k = 0; k < c.r; ++k) p[size_t(j)] += u1[row * c.r + k] * u2[key(j) * c.r + k];
          mass += p[size_t(j)];
        }
        if (mass == 0) continue;
        std::vector<double> dp(size_t(c.S), 0.0);
        for (int64_t j = 0; j < c.S; ++j)
          for (int64_t d = 0; d < c.Dv; ++d) {
            out.y[size_t(row * c.Dv + d)] += p[size_t(j)] / mass * v[key(j) * c.Dv + d];
            out.dv[size_t(key(j) * c.Dv + d)] += p[size_t(j)] / mass * dy[row * c.Dv + d];
            dp[size_t(j)] += dy[row * c.Dv + d] * v[key(j) * c.Dv + d];
          }
        for (int64_t j = 0; j < c.S; ++j) mean += p[size_t(j)] / mass * dp[size_t(j)];
        for (int64_t j = 0; j < c.S; ++j) {
          if (p[size_t(j)] == 0) continue;
          for (int64_t k = 0; k < c.r; ++k) {
            out.du1[size_t(row * c.r + k)] += (dp[size_t(j)] - mean) / mass * u2[key(j) * c.r + k];
            out.du2[size_t(key(j) * c.r + k)] += (dp[size_t(j)] - mean) / mass * u1[row * c.r + k];
          }
        }
      }
  return out;
}

Result fast(const Case& c, const LowRankOptions& o) {
  Var u1(c.u1, true), u2(c.u2, true), v(c.v, true);
  Var y = low_rank_attention(u1, u2, v, o);
  y.backward(c.dy);
  return {y.value().to_vector<double>(), u1.grad().to_vector<double>(), u2.grad().to_vector<double>(),
          v.grad().to_vector<double>()};
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  return std::sqrt(difference / (1 + norm));  // with r = 1 the gradient of u1 is 0
}

void expect_same(const Result& got, const Result& expected, const std::string& what, double tolerance = 1e-12) {
  EXPECT_LT(distance(got.y, expected.y), tolerance) << what;
  EXPECT_LT(distance(got.du1, expected.du1), tolerance * 10) << what;
  EXPECT_LT(distance(got.du2, expected.du2), tolerance * 10) << what;
  EXPECT_LT(distance(got.dv, expected.dv), tolerance * 10) << what;
}

Dense from_ranges(const std::vector<KeyRange>& ranges, int64_t S) {
  Dense visible;
  for (KeyRange r : ranges)
    for (int64_t j = 0; j < S; ++j) visible.push_back(j >= r.begin && j < r.end);
  return visible;
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine(seed) {}
  int64_t operator()(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  Case shape(int64_t longest) {
    Case c;
    c.T = (*this)(1, longest), c.S = c.T + ((*this)(0, 2) ? 0 : (*this)(0, longest));
    c.B = (*this)(1, 2), c.Hkv = (*this)(1, 2), c.H = c.Hkv * (*this)(1, 2);
    c.r = (*this)(1, 6), c.Dv = (*this)(1, 5);
    return c;
  }
  std::mt19937 engine;
};

TEST(LowRankAttention, CausalAndFullEqualTheMatrix) {
  Random random(1);
  for (int n = 0; n < 120; ++n) {
    Case c = random.shape(n % 8 ? 90 : 400);
    c.fill(random.engine);
    bool causal = random(0, 3) > 0, padded = random(0, 3) == 0;
    Dense visible;
    for (int64_t i = 0; i < c.T; ++i)
      for (int64_t j = 0; j < c.S; ++j) visible.push_back(!causal || j <= i + c.S - c.T);
    LowRankOptions o{.causal = causal};
    std::vector<int32_t> lengths;
    for (int64_t b = 0; padded && b < c.B; ++b) lengths.push_back(int32_t(random(0, c.S)));
    if (padded) o.key_lengths = Tensor::from(lengths, {c.B});
    expect_same(fast(c, o), naive(c, visible, lengths), "T " + std::to_string(c.T) + " S " + std::to_string(c.S));
  }
}

TEST(LowRankAttention, AnyRangesEqualTheMatrix) {
  Random random(2);
  for (int n = 0; n < 150; ++n) {
    Case c = random.shape(n % 3 ? 140 : 300);
    c.fill(random.engine);
    int64_t groups = c.H % 2 == 0 && random(0, 1) ? 2 : 1;
    bool smooth = random(0, 1);
    std::vector<KeyRange> ranges;
    for (int64_t i = 0; i < groups * c.T; ++i) {
      int64_t begin = random(0, c.S), end = random(0, c.S);
      if (smooth) begin = std::max<int64_t>(0, i % c.T - 40), end = std::min(c.S, begin + 1 + random(0, 130));
      if (random(0, 9) == 0) end = std::min(c.S, begin + 1);
      ranges.push_back({int32_t(begin), int32_t(end)});
    }
    LowRankOptions o;
    o.mask = continuous_rows(ranges, c.T, c.S);
    expect_same(fast(c, o), naive(c, from_ranges(ranges, c.S)), "ranges " + std::to_string(n));
  }
}

TEST(LowRankAttention, AnyChangesEqualTheMatrix) {
  Random random(3);
  for (int n = 0; n < 120; ++n) {
    Case c = random.shape(n % 3 ? 140 : 300);
    c.fill(random.engine);
    std::vector<int64_t> begin{0};
    std::vector<int32_t> changes;
    Dense visible;
    std::vector<uint8_t> row(size_t(c.S), 0);
    int64_t most = random(0, 4), many = random(0, 1);  // rows that see nothing come at the start
    for (int64_t i = 0; i < c.T; ++i) {
      int64_t count = many && i == 2 ? c.S : random(0, most);
      for (int64_t e = 0; e < count; ++e) {
        int64_t key = many && i == 2 ? e : random(0, c.S - 1);
        changes.push_back(int32_t(key)), row[size_t(key)] ^= 1;
      }
      begin.push_back(int64_t(changes.size()));
      visible.insert(visible.end(), row.begin(), row.end());
    }
    LowRankOptions o;
    o.mask = row_changes(begin, changes, c.S);
    expect_same(fast(c, o), naive(c, visible), "changes " + std::to_string(n));
  }
}

TEST(LowRankAttention, LongLoraAndWindowMasksAreWhatTheySay) {
  for (int64_t T : {1, 7, 64, 65, 130, 200})
    for (bool causal : {true, false})
      for (int64_t rows : {T, int64_t{1}}) {
        std::mt19937 engine{uint32_t(T)};
        Case c{.T = rows, .S = T, .H = 4, .Hkv = 2, .r = 3, .Dv = 2};
        c.fill(engine);
        int64_t width = 24;
        Dense blocks, window;
        for (int64_t shift : {int64_t{0}, width / 2})
          for (int64_t i = T - rows; i < T; ++i)
            for (int64_t j = 0; j < T; ++j)
              blocks.push_back((i + shift) / width == (j + shift) / width && (!causal || j <= i));
        for (int64_t i = T - rows; i < T; ++i)
          for (int64_t j = 0; j < T; ++j) window.push_back(j <= i && i - j < width);
        LowRankOptions o;
        o.mask = shifted_blocks(width, causal, rows, T);
        expect_same(fast(c, o), naive(c, blocks), "blocks " + std::to_string(T));
        o.mask = sliding_rows(width, rows, T);
        expect_same(fast(c, o), naive(c, window), "window " + std::to_string(T));
      }
}

TEST(LowRankAttention, ATokenMovesNothingBeforeIt) {
  for (int64_t T = 1; T <= 300; T += T < 20 ? 1 : 23) {
    std::mt19937 engine{uint32_t(T)};
    Case c{.T = T, .S = T, .H = 2, .Hkv = 1, .r = 3, .Dv = 2};
    c.fill(engine);
    LowRankOptions causal, blocks;
    blocks.mask = shifted_blocks(10, true, T, T);
    for (const LowRankOptions& o : {causal, blocks}) {
      auto before = low_rank_attention(Var(c.u1), Var(c.u2), Var(c.v), o).value().to_vector<double>();
      int64_t t = T / 2;
      Tensor u1 = c.u1.clone(), u2 = c.u2.clone(), v = c.v.clone();
      for (int64_t k = 0; k < 2 * 3; ++k) u1.data<double>()[t * 6 + k] += 1;
      for (int64_t k = 0; k < 3; ++k) u2.data<double>()[t * 3 + k] += 2;
      for (int64_t k = 0; k < 2; ++k) v.data<double>()[t * 2 + k] += 3;
      auto after = low_rank_attention(Var(u1), Var(u2), Var(v), o).value().to_vector<double>();
      for (int64_t i = 0; i < t * 4; ++i) ASSERT_EQ(before[size_t(i)], after[size_t(i)]) << T;
      if (T > 1) {
        EXPECT_NE(before[size_t(t * 4)], after[size_t(t * 4)]);
      }
    }
  }
}

// A key of 1e10 times the others' weight that has left the window: a difference of f32 prefix sums would hold nothing
// else.
TEST(LowRankAttention, WhatARowDoesNotSeeLeavesNoRoundingBehind) {
  std::mt19937 engine{9};
  Case c{.T = 400, .S = 400, .r = 3, .Dv = 2};
  c.fill(engine);
  for (int k = 0; k < 3; ++k) c.u2.data<double>()[5 * 3 + k] = 1e10;
  LowRankOptions o;
  o.mask = sliding_rows(100, 400, 400);
  auto expected = low_rank_attention(Var(c.u1), Var(c.u2), Var(c.v), o).value().to_vector<double>();
  auto got = low_rank_attention(Var(c.u1.to(DType::f32)), Var(c.u2.to(DType::f32)), Var(c.v.to(DType::f32)), o)
                 .value()
                 .to_vector<double>();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 2e-6) << i;
}

TEST(LowRankAttention, WorkIsLinearWhereRowsChangeLittle) {
  for (int64_t n : {1 << 12, 1 << 15}) {
    std::vector<int64_t> begin{0};
    std::vector<int32_t> changes;  // each row sees one more key, and from 1000 on one fewer behind
    for (int32_t i = 0; i < n; ++i) {
      changes.push_back(i);
      if (i >= 1000) changes.push_back(i - 1000);
      begin.push_back(int64_t(changes.size()));
    }
    RowMask changed = row_changes(begin, changes, n), sliding = sliding_rows(1000, n, n);
    for (const RowMask& mask : {changed, sliding, shifted_blocks(1000, true, n, n)}) {
      int64_t tiles = mask.groups * n / kMaskTile;
      EXPECT_LE(mask.bits.size(0), 4 * tiles);
      EXPECT_LE(mask.by_row.nodes.numel(), 12 * tiles);
      EXPECT_LE(mask.by_key.nodes.numel(), 12 * tiles);
    }
    EXPECT_EQ(changed.bits.size(0), sliding.bits.size(0));
  }
}

TEST(LowRankAttention, MasksRefuseWhatCannotBe) {
  EXPECT_THROW(continuous_rows({{0, 5}}, 1, 4), core::Error);
  EXPECT_THROW(continuous_rows({{-1, 2}}, 1, 4), core::Error);
  EXPECT_THROW(continuous_rows({{0, 1}, {0, 1}, {0, 1}}, 2, 4), core::Error);
  EXPECT_THROW(row_changes({0, 1}, {4}, 4), core::Error);
  EXPECT_THROW(row_changes({0, 2}, {1}, 4), core::Error);
  EXPECT_THROW(shifted_blocks(3, true, 4, 4), core::Error);
  EXPECT_THROW(sliding_rows(0, 4, 4), core::Error);
}

}  // namespace
}  // namespace basis::ops
