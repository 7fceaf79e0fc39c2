#include "core/factor/low_rank.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "core/factor/basis.h"

namespace basis::core {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Matrix>;
using Eigen::MatrixXd;

Map matrix(const Tensor& t) { return {t.data<double>(), t.size(0), t.size(1)}; }

// A with A A^T = moment + a small multiple of the identity: inputs that never vary and rounded sums leave the moment on
// the edge of being positive definite.
MatrixXd square_root(const Tensor& moment) {
  MatrixXd g = matrix(moment);
  double size = g.trace() / double(g.rows()) + 1e-300;
  for (double share : {1e-9, 1e-7, 1e-5, 1e-3}) {
    MatrixXd shifted = g;
    shifted.diagonal().array() += share * size;
    Eigen::LLT<MatrixXd> cholesky(shifted);
    if (cholesky.info() == Eigen::Success) return cholesky.matrixL();
  }
  throw Error({.where = "second moments of a layer's inputs",
               .expected = "a positive definite matrix",
               .got = "another one",
               .remedy = "calibrate on another text, or on none",
               .code = ExitCode::bad_file});
}

// Orthonormal columns that span the r leading left singular directions of a, and the share of |a|^2 beside them.
std::pair<MatrixXd, double> leading(const MatrixXd& a, int64_t r) {
  bool tall = a.rows() > a.cols();
  MatrixXd gram = tall ? MatrixXd(a.transpose() * a) : MatrixXd(a * a.transpose());
  Eigen::SelfAdjointEigenSolver<MatrixXd> solver(gram);  // ascending
  int64_t rest = gram.rows() - r;
  double beside = solver.eigenvalues().head(rest).cwiseMax(0).sum() / std::max(1e-300, gram.trace());
  MatrixXd p = solver.eigenvectors().rightCols(r).rowwise().reverse();
  if (!tall) return {p, beside};
  MatrixXd directions = a * p;
  Eigen::HouseholderQR<MatrixXd> qr(directions);
  return {qr.householderQ() * MatrixXd::Identity(a.rows(), r), beside};
}

}  // namespace

LowRankFactors truncate(const Tensor& weight, int64_t rank, const Tensor& moment) {
  auto w = matrix(weight);
  int64_t m = w.rows(), n = w.cols();
  auto [p, beside] = leading(moment ? MatrixXd(w * square_root(moment)) : MatrixXd(w), rank);
  LowRankFactors f{Tensor::empty({m, rank}, DType::f64), Tensor::empty({rank, n}, DType::f64), std::sqrt(beside)};
  auto u = matrix(f.u), v = matrix(f.v);
  v = p.transpose() * w;  // p p^T w: p holds the leading directions of w x
  Eigen::VectorXd scale = v.rowwise().norm().cwiseMax(1e-150).cwiseSqrt();
  u = p * scale.asDiagonal();
  v = scale.cwiseInverse().asDiagonal() * Matrix(v);
  return f;
}

int64_t low_rank_size(int64_t m, int64_t n, int64_t r, bool bd) { return r * (m + n - (bd ? r : 0)); }

int64_t rank_for(int64_t m, int64_t n, double keep, bool bd) {
  double budget = keep * double(m) * double(n), sum = double(m + n);
  double r = bd ? (sum - std::sqrt(std::max(0.0, sum * sum - 4 * budget))) / 2 : budget / sum;
  int64_t rank = std::clamp<int64_t>(int64_t(r + 1e-9), 1, std::max<int64_t>(1, std::min(m, n) - 1));
  return rank >= 64 ? rank / 8 * 8 : rank;
}

std::vector<int64_t> joint_order(const std::vector<Tensor>& all) {
  int64_t n = all[0].size(1);
  std::vector<int64_t> ranks, order;
  for (const Tensor& v : all) ranks.push_back(v.size(0));
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  for (int64_t rank : ranks) {  // each adds to the rows before it those that its weights lack
    int64_t done = int64_t(order.size()), more = rank - done;
    Tensor stack;
    std::vector<Matrix> lacking;
    for (const Tensor& t : all) {
      if (t.size(0) < rank) continue;
      Matrix v = matrix(t);
      if (done) {  // what is left of v's rows when the chosen channels are 0
        MatrixXd chosen(v.rows(), done);
        for (int64_t i = 0; i < done; ++i) chosen.col(i) = v.col(order[size_t(i)]);
        MatrixXd q = Eigen::HouseholderQR<MatrixXd>(chosen).householderQ();
        v = (q.rightCols(v.rows() - done).transpose() * v).eval();
      }
      lacking.push_back(v.topRows(more));
    }
    stack = Tensor::empty({int64_t(lacking.size()) * more, n}, DType::f64);
    for (size_t i = 0; i < lacking.size(); ++i) matrix(stack).middleRows(int64_t(i) * more, more) = lacking[i];
    auto rows = choose_basis(stack, more, BasisChoice::pivoted, order);
    order.insert(order.end(), rows.begin(), rows.end());
  }
  std::vector<char> taken(size_t(n), 0);
  for (int64_t i : order) taken[size_t(i)] = 1;
  for (int64_t i = 0; i < n; ++i)
    if (!taken[size_t(i)]) order.push_back(i);
  return order;
}

}  // namespace basis::core
