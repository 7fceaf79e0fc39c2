// Many Basis Decompositions at once: on the CPU what choose_basis and decompose give one by one, on a GPU the same rows
// and factors but for rounding.
#include "core/factor/decompose.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace basis::core {
namespace {

struct Problem {
  int64_t heads, dh, d, group, columns;
};

Tensor random(const Shape& shape, uint64_t stream) {
  HostRandom r(17, stream);
  Tensor t = Tensor::empty(shape, DType::f64);
  std::generate_n(t.data<double>(), t.numel(), [&] { return r.normal(); });
  return t;
}

// The first and last channels of each head nearly dependent, as in trained models.
std::vector<BasisTask> tasks_of(const Problem& p, size_t n) {
  std::vector<BasisTask> tasks;
  for (size_t i = 0; i < n; ++i) {
    Tensor w = random({p.heads * p.dh, p.d}, 2 * i), partner = random({p.group * p.heads * p.dh, p.columns}, 2 * i + 1);
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t j = 1; j < p.dh; ++j)
        for (int64_t c = 0; c < p.d; ++c) {
          double& x = w.data<double>()[(h * p.dh + j) * p.d + c];
          if (c < p.dh || c >= p.d - p.dh) x = 0.05 * x + w.data<double>()[h * p.dh * p.d + c];
        }
    tasks.push_back({w, partner, {}});
    if (i % 2) tasks.back().taken = {0, p.d / 2};
  }
  return tasks;
}

double distance(const Tensor& a, const Tensor& b) {  // relative
  double difference = 0, size = 0;
  for (int64_t i = 0; i < b.numel(); ++i) {
    difference = std::max(difference, std::abs(a.data<double>()[i] - b.data<double>()[i]));
    size = std::max(size, std::abs(b.data<double>()[i]));
  }
  return a.shape() == b.shape() ? difference / size : HUGE_VAL;
}

void expect_same(const std::vector<BasisFactors>& got, const std::vector<BasisFactors>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    SCOPED_TRACE("task " + std::to_string(i));
    ASSERT_EQ(got[i].rows, want[i].rows);
    EXPECT_EQ(got[i].rest, want[i].rest);
    EXPECT_EQ(distance(got[i].t, want[i].t), 0);
    if (want[i].c.numel()) {
      EXPECT_LE(distance(got[i].c, want[i].c), tolerance);
    }
    ASSERT_EQ(got[i].heads.size(), want[i].heads.size());
    for (size_t h = 0; h < want[i].heads.size(); ++h) {
      EXPECT_NEAR(got[i].heads[h].condition / want[i].heads[h].condition, 1, 1e3 * tolerance) << h;
      EXPECT_NEAR(got[i].heads[h].largest, want[i].heads[h].largest, tolerance * want[i].heads[h].largest) << h;
    }
  }
}

TEST(DecomposeAll, IsOneByOne) {
  auto tasks = tasks_of({3, 4, 17, 2, 9}, 3);
  for (BasisChoice choice : {BasisChoice::first, BasisChoice::residual_min, BasisChoice::pivoted}) {
    std::vector<BasisFactors> want;
    for (const BasisTask& t : tasks)
      want.push_back(decompose(t.weight, 4, choose_basis(t.weight, 4, choice, t.taken, t.partner)));
    expect_same(decompose_all(tasks, 4, choice, cpu), want, 0);
  }
  EXPECT_TRUE(decompose_all({}, 4, BasisChoice::pivoted, cpu).empty());
}

std::string failure(const std::vector<BasisTask>& tasks, Device device) {
  try {
    decompose_all(tasks, 4, BasisChoice::pivoted, device);
  } catch (const Error& e) {
    return e.what();
  }
  return "none";
}

std::vector<BasisTask> with_a_singular_head() {
  auto tasks = tasks_of({3, 4, 17, 1, 9}, 3);
  std::fill_n(tasks[1].weight.data<double>() + 4 * 17, 17, 0.0);  // one column of head 1
  return tasks;
}

TEST(DecomposeAll, ASingularHeadIsNamed) {
  EXPECT_NE(failure(with_a_singular_head(), cpu).find("head 1"), std::string::npos);
}

TEST(DecomposeAllCuda, EqualsTheCpu) {
  if (device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  for (Problem p : {Problem{3, 4, 17, 1, 9},
                    {1, 1, 2, 1, 1},
                    {2, 5, 5, 1, 7},
                    {12, 64, 768, 1, 768},
                    {2, 64, 300, 4, 65},
                    {4, 128, 512, 1, 512},
                    {1, 200, 450, 1, 33}})
    for (BasisChoice choice : {BasisChoice::first, BasisChoice::last, BasisChoice::pivoted}) {
      SCOPED_TRACE("dh " + std::to_string(p.dh) + ", d " + std::to_string(p.d) + ", choice " +
                   std::to_string(int(choice)));
      auto tasks = tasks_of(p, 3);
      if (p.d < p.dh + 3)
        for (BasisTask& t : tasks) t.taken.clear();
      expect_same(decompose_all(tasks, p.dh, choice, cuda()), decompose_all(tasks, p.dh, choice, cpu), 1e-9);
    }
}

TEST(DecomposeAllCuda, WhatItCannotDoIsDoneOnTheCpu) {
  if (device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  EXPECT_EQ(failure(with_a_singular_head(), cuda()), failure(with_a_singular_head(), cpu));
  auto tasks = tasks_of({2, 4, 17, 1, 9}, 4);
  tasks[1].partner = {};
  tasks[2] = tasks_of({3, 4, 20, 1, 9}, 1)[0];
  expect_same(decompose_all(tasks, 4, BasisChoice::pivoted, cuda()), decompose_all(tasks, 4, BasisChoice::pivoted, cpu),
              1e-9);
}

}  // namespace
}  // namespace basis::core
