#include "core/factor/basis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "core/rng.h"

namespace basis::core {
namespace {

// [H dh, d] whose first and last channels are nearly dependent, as in trained models, so that the choice matters.
Tensor projection(int64_t heads, int64_t dh, int64_t d, double weak = 1e-4) {
  HostRandom random(3, 0);
  std::vector<double> w(size_t(heads * dh * d));
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < d; ++i) {
      bool edge = i < dh || i >= d - dh;
      double common = random.normal();
      for (int64_t j = 0; j < dh; ++j)
        w[size_t((h * dh + j) * d + i)] = edge ? common + weak * random.normal() : random.normal();
    }
  return Tensor::from(w, {heads * dh, d});
}

class Basis : public ::testing::TestWithParam<BasisChoice> {};

TEST_P(Basis, FactorsMultiplyToTheWeights) {
  constexpr int64_t H = 3, dh = 4, d = 17;
  Tensor w = projection(H, dh, d, 1e-2);
  BasisFactors f = decompose(w, dh, choose_basis(w, dh, GetParam()));
  ASSERT_EQ(int64_t(f.rows.size() + f.rest.size()), d);
  const double *p = w.data<double>(), *t = f.t.data<double>(), *c = f.c.data<double>();
  for (int64_t h = 0; h < H; ++h)
    for (int64_t j = 0; j < dh; ++j) {
      for (int64_t i = 0; i < dh; ++i) EXPECT_EQ(t[(h * dh + i) * dh + j], p[(h * dh + j) * d + f.rows[size_t(i)]]);
      for (int64_t i = 0; i < d - dh; ++i) {
        double sum = 0;  // (C T)[i, j]
        for (int64_t m = 0; m < dh; ++m) sum += c[(h * dh + m) * (d - dh) + i] * t[(h * dh + m) * dh + j];
        EXPECT_NEAR(sum, p[(h * dh + j) * d + f.rest[size_t(i)]], 1e-10);
      }
    }
}
INSTANTIATE_TEST_SUITE_P(Choices, Basis,
                         ::testing::Values(BasisChoice::first, BasisChoice::last, BasisChoice::residual_min,
                                           BasisChoice::pivoted));

TEST(BasisChoices, PivotingIsBetterConditionedThanTheEdges) {
  Tensor w = projection(4, 6, 40);
  auto worst = [&](BasisChoice choice) {
    double condition = 0;
    for (const HeadFactor& h : decompose(w, 6, choose_basis(w, 6, choice)).heads)
      condition = std::max(condition, h.condition);
    return condition;
  };
  EXPECT_LT(100 * worst(BasisChoice::pivoted), std::min(worst(BasisChoice::first), worst(BasisChoice::last)));
}

TEST(BasisChoices, TakenChannelsAreLeft) {
  Tensor w = projection(2, 4, 12);
  auto first = choose_basis(w, 4, BasisChoice::pivoted), second = choose_basis(w, 4, BasisChoice::pivoted, first);
  for (int64_t c : second) EXPECT_EQ(std::count(first.begin(), first.end(), c), 0) << c;
  std::vector<int64_t> most = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_THROW(choose_basis(w, 4, BasisChoice::pivoted, most), Error);
}

// The error of a head's product that rounding factors to relative eps leaves, as basis.h's partner form models it.
double expected_error(const Tensor& w, const Tensor& partner, int64_t dh, std::span<const int64_t> rows) {
  BasisFactors f = decompose(w, dh, rows);
  int64_t heads = w.size(0) / dh, d = w.size(1), group = partner.size(0) / w.size(0), n = partner.size(1);
  auto row_of_product = [&](int64_t h, int64_t channel) {  // |row of W P|^2
    double sum = 0;
    for (int64_t c = 0; c < n; ++c) {
      double x = 0;
      for (int64_t j = 0; j < dh; ++j)
        x += w.data<double>()[(h / group * dh + j) * d + channel] * partner.data<double>()[(h * dh + j) * n + c];
      sum += x * x;
    }
    return sum;
  };
  double objective = 0;
  for (int64_t g = 0; g < heads; ++g) {
    double of_head = 0;
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      double whole = 0;
      for (int64_t i = 0; i < d; ++i) whole += row_of_product(h, i);
      for (int64_t j = 0; j < dh; ++j) {
        double c = 0;
        for (int64_t i = 0; i < d - dh; ++i) c += std::pow(f.c.data<double>()[(g * dh + j) * (d - dh) + i], 2);
        of_head += row_of_product(h, rows[size_t(j)]) * (1 + 2 * c) / whole;
      }
    }
    objective += of_head * of_head;
  }
  return objective;
}

// Against every single exchange, each decomposed anew: none is better by more than what an exchange must gain.
TEST(BasisChoices, NoExchangeMakesThePartnersProductMuchMoreAccurate) {
  constexpr int64_t H = 2, dh = 3, d = 11;
  for (int64_t group : {1, 2}) {
    Tensor w = projection(H, dh, d), partner = projection(H * group, dh, 8, 1);
    auto rows = choose_basis(w, dh, BasisChoice::pivoted, {}, partner);
    double chosen = expected_error(w, partner, dh, rows), best = chosen;
    for (int64_t j = 0; j < dh; ++j)
      for (int64_t i = 0; i < d; ++i) {
        if (std::count(rows.begin(), rows.end(), i)) continue;
        auto other = rows;
        other[size_t(j)] = i;
        best = std::min(best, expected_error(w, partner, dh, other));
      }
    EXPECT_GE(best, 0.989 * chosen);
    EXPECT_LE(chosen, expected_error(w, partner, dh, choose_basis(w, dh, BasisChoice::pivoted)));
    EXPECT_LT(10 * chosen, expected_error(w, partner, dh, choose_basis(w, dh, BasisChoice::residual_min)));
  }
}

TEST(BasisChoices, ASingularHeadIsNamed) {
  Tensor w = projection(3, 4, 12);
  std::fill_n(w.data<double>() + 4 * 12, 12, 0.0);  // one column of head 1
  try {
    decompose(w, 4, choose_basis(w, 4, BasisChoice::pivoted));
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::bad_file);
    EXPECT_NE(std::string(e.what()).find("head 1"), std::string::npos) << e.what();
  }
}

TEST(BasisChoices, HeadsOfAGroupShareAFactor) {
  Tensor t = Tensor::from(std::vector<double>{2, 0, 0, 4}, {1, 2, 2});
  Tensor w = Tensor::from(std::vector<double>{1, 2, 3, 4}, {4, 1});
  EXPECT_EQ(apply_per_head(t, w).to_vector<double>(), (std::vector<double>{2, 8, 6, 16}));
  EXPECT_EQ(solve_per_head(t, w).to_vector<double>(), (std::vector<double>{0.5, 0.5, 1.5, 1}));
}

}  // namespace
}  // namespace basis::core
