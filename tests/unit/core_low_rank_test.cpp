#include "core/factor/low_rank.h"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/factor/basis.h"
#include "core/rng.h"

namespace basis::core {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::Map<Matrix> matrix(const Tensor& t) { return {t.data<double>(), t.size(0), t.size(1)}; }

Tensor random(int64_t m, int64_t n, uint64_t seed) {
  HostRandom r(seed, 0);
  Tensor t = Tensor::empty({m, n}, DType::f64);
  for (int64_t i = 0; i < m * n; ++i) t.data<double>()[i] = r.normal() / double(1 + i % n);
  return t;
}

// Eckart and Young: nothing of that rank is nearer than the truncated singular value decomposition.
TEST(LowRank, IsTheTruncatedSingularValueDecomposition) {
  for (auto [m, n] : {std::pair(12, 7), {7, 12}, {9, 9}}) {
    Tensor w = random(m, n, 1);
    Eigen::VectorXd values = Eigen::JacobiSVD<Matrix>(matrix(w)).singularValues();
    for (int64_t r : {1, 4, 6}) {
      LowRankFactors f = truncate(w, r);
      double error = (matrix(f.u) * matrix(f.v) - matrix(w)).norm();
      EXPECT_NEAR(error, values.tail(values.size() - r).norm(), 1e-7 * values[0]) << m << " " << n << " " << r;
      EXPECT_NEAR(f.error, error / values.norm(), 1e-7);
      for (int64_t i = 0; i < r; ++i)
        EXPECT_NEAR(matrix(f.u).col(i).norm(), matrix(f.v).row(i).norm(), 1e-9 * values[0]);
    }
  }
}

TEST(LowRank, MomentsWeighTheErrorByTheInputs) {
  for (auto [m, n] : {std::pair(14, 8), {8, 14}}) {
    Tensor w = random(m, n, 2), x = random(n, 40, 3), moment = Tensor::empty({n, n}, DType::f64);
    for (int64_t i = 0; i < n; ++i) matrix(x).row(i) *= double((i * 5) % n + 1);
    matrix(moment) = matrix(x) * matrix(x).transpose() / 40;
    Matrix y = matrix(w) * matrix(x);
    auto error = [&](const LowRankFactors& f) { return (matrix(f.u) * matrix(f.v) * matrix(x) - y).norm() / y.norm(); };
    Eigen::VectorXd values = Eigen::JacobiSVD<Matrix>(y).singularValues();
    LowRankFactors weighed = truncate(w, 3, moment);
    EXPECT_NEAR(error(weighed), values.tail(values.size() - 3).norm() / values.norm(), 1e-6);
    EXPECT_NEAR(weighed.error, error(weighed), 1e-6);
    EXPECT_GT(error(truncate(w, 3)), 1.05 * error(weighed));
  }
}

TEST(LowRank, RanksFillTheirShare) {
  EXPECT_EQ(low_rank_size(10, 6, 3, false), 48);
  EXPECT_EQ(low_rank_size(10, 6, 3, true), 39);
  for (bool bd : {false, true})
    for (auto [m, n] : {std::pair(512, 512), {2048, 512}, {24, 40}})
      for (double keep : {0.5, 0.8}) {
        int64_t r = rank_for(m, n, keep, bd), step = r >= 64 ? 8 : 1;
        EXPECT_LE(double(low_rank_size(m, n, r, bd)), keep * double(m * n));
        EXPECT_GT(double(low_rank_size(m, n, r + step, bd)), keep * double(m * n));
      }
}

// Weights of different ranks that read one input: each finds a basis at the front of the same order.
TEST(LowRank, OneOrderServesEveryRank) {
  std::vector<Tensor> v = {random(6, 20, 4), random(3, 20, 5), random(3, 20, 6), random(8, 20, 7)};
  for (Tensor& t : v)  // the first channels are nearly dependent
    for (int64_t i = 0; i < 9; ++i) matrix(t).col(i) = matrix(t).col(0) + 1e-7 * matrix(t).col(i);
  std::vector<int64_t> order = joint_order(v);
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(sorted[size_t(i)], i);
  for (const Tensor& t : v) {
    std::vector<int64_t> rows(order.begin(), order.begin() + t.size(0));
    EXPECT_LT(decompose(t, t.size(0), rows).heads[0].condition, 1e3);
    std::iota(rows.begin(), rows.end(), 0);
    EXPECT_GT(decompose(t, t.size(0), rows).heads[0].condition, 1e6);
  }
}

TEST(LowRank, AWeightOfALowerRankStillHasNoBasis) {
  Tensor v = random(4, 9, 8);
  matrix(v).row(3) = matrix(v).row(1);
  std::vector<int64_t> order = joint_order({v});
  order.resize(4);
  EXPECT_THROW(decompose(v, 4, order), Error);
}

}  // namespace
}  // namespace basis::core
