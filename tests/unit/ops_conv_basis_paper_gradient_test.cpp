// The paper's gradient against the formula it stands for, written out with matrices, and against dense attention's.
#include "ops/conv_basis/paper_gradient.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/var.h"
#include "core/rng.h"
#include "ops/naive_attention/naive_attention.h"

namespace basis::ops {
namespace {

using Values = std::vector<double>;

Tensor normal(const Shape& shape, uint64_t stream) {
  core::HostRandom random(17, stream);
  Values v(static_cast<size_t>(shape.numel()));
  for (double& x : v) x = random.normal();
  return Tensor::from(v, shape);
}

struct Problem {
  int64_t B, T, H, Hkv, D, Dv;
  Tensor q = normal({B, T, H, D}, 1), k = normal({B, T, Hkv, D}, 2), v = normal({B, T, Hkv, Dv}, 3),
         dout = normal({B, T, H, Dv}, 4);

  std::vector<Values> gradients(const std::function<Var(const Var&, const Var&, const Var&)>& attention) const {
    std::vector<Var> leaves{Var(q, true), Var(k, true), Var(v, true)};
    std::vector<Values> out;
    for (const Tensor& g : autograd::gradients(attention(leaves[0], leaves[1], leaves[2]), leaves, dout))
      out.push_back(g.to_vector<double>());
    return out;
  }
  std::vector<Values> paper(ConvBasisOptions o) const {
    o.paper_gradient = true;
    return gradients([&](const Var& q, const Var& k, const Var& v) { return conv_basis_attention(q, k, v, o); });
  }
  std::vector<Values> dense(bool causal) const {
    return gradients(
        [&](const Var& q, const Var& k, const Var& v) { return naive_attention(q, k, v, {.causal = causal}); });
  }

  // dS = f o (dO V^T - dO . O) with f row by row from the op itself, applied to the identity.
  std::vector<Values> written_out(const ConvBasisOptions& o) const {
    Values one(size_t(B * T * Hkv * T), 0.0);
    for (int64_t i = 0; i < B * T * Hkv; ++i) one[size_t(i * T + i / Hkv % T)] = 1;
    Values f = conv_basis_naive(Var(q), Var(k), Var(Tensor::from(one, {B, T, Hkv, T})), o).value().to_vector<double>();
    Values qs = q.to_vector<double>(), ks = k.to_vector<double>(), vs = v.to_vector<double>(),
           g = dout.to_vector<double>();
    Values dq(qs.size()), dk(ks.size()), dv(vs.size());
    double scale = 1 / std::sqrt(double(D));
    for (int64_t row = 0; row < B * T * H; ++row) {
      int64_t b = row / (T * H), kv = row % H / (H / Hkv);
      auto key = [&](int64_t j) { return size_t((b * T + j) * Hkv + kv); };
      Values p(static_cast<size_t>(T));
      double mean = 0;
      for (int64_t j = 0; j < T; ++j) {
        for (int64_t c = 0; c < Dv; ++c) p[size_t(j)] += g[size_t(row * Dv + c)] * vs[key(j) * size_t(Dv) + size_t(c)];
        mean += f[size_t(row * T + j)] * p[size_t(j)];
      }
      for (int64_t j = 0; j < T; ++j) {
        double at = f[size_t(row * T + j)], ds = scale * at * (p[size_t(j)] - mean);
        for (int64_t c = 0; c < D; ++c) {
          dq[size_t(row * D + c)] += ds * ks[key(j) * size_t(D) + size_t(c)];
          dk[key(j) * size_t(D) + size_t(c)] += ds * qs[size_t(row * D + c)];
        }
        for (int64_t c = 0; c < Dv; ++c) dv[key(j) * size_t(Dv) + size_t(c)] += at * g[size_t(row * Dv + c)];
      }
    }
    return {dq, dk, dv};
  }
};

double relative(const std::vector<Values>& got, const std::vector<Values>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i)
    for (size_t e = 0; e < want[i].size(); ++e)
      difference += std::pow(got[i][e] - want[i][e], 2), norm += std::pow(want[i][e], 2);
  return std::sqrt(difference / norm);
}

TEST(ConvBasisPaperGradient, IsTheFormulaAtTheConvBasisMatrix) {
  Problem grouped{2, 13, 4, 2, 3, 5}, wide{1, 29, 2, 2, 160, 7};  // wide: Dv in several pieces
  for (bool causal : {true, false})
    for (int64_t k : {1, 3, 5})
      for (const Problem* p : {&grouped, &wide}) {
        ConvBasisOptions o{.k = k, .causal = causal, .window = k == 5 ? 2 : 0};
        EXPECT_LT(relative(p->paper(o), p->written_out(o)), 1e-9) << causal << " " << k;
      }
}

TEST(ConvBasisPaperGradient, IsDenseAttentionsWhereEveryColumnIsScored) {
  Problem p{1, 24, 2, 1, 4, 3};
  for (bool causal : {true, false})
    EXPECT_LT(relative(p.paper({.k = 24, .causal = causal}), p.dense(causal)), 1e-10) << causal;
  EXPECT_GT(relative(p.paper({.k = 2}), p.dense(true)), 1e-2);
}

TEST(ConvBasisPaperGradient, IsNotThatOfTheApproximateForward) {
  Problem p{1, 24, 2, 2, 4, 3};
  auto exact =
      p.gradients([&](const Var& q, const Var& k, const Var& v) { return conv_basis_attention(q, k, v, {.k = 3}); });
  EXPECT_GT(relative(p.paper({.k = 3}), exact), 1e-2);
}

}  // namespace
}  // namespace basis::ops
