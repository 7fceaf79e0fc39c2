#include "core/factor/basis.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/factor/least_error.h"
#include "core/parallel.h"

namespace basis::core {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Matrix>;

constexpr double kSingular = 1e-13;  // of the largest pivot
constexpr float kTiny = 1e-30f;

Map matrix(const Tensor& t, int64_t first_row, int64_t rows) {
  int64_t columns = t.shape().back();
  return {t.data<double>() + first_row * columns, rows, columns};
}

// A head's W with orthonormal columns, d x dh. Rows are chosen in f32: any good set will do, its factors are f64.
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Its rows have the same independent sets as W's, whatever the columns' scales. W L^-T with W^T W = L L^T (Cholesky
// QR); Householder's where W is too ill-conditioned for that.
Rows orthonormal(const Map& w_transposed) {
  int64_t dh = w_transposed.rows(), d = w_transposed.cols();
  Eigen::MatrixXd gram = w_transposed * w_transposed.transpose();
  Eigen::LLT<Eigen::MatrixXd> cholesky(gram);
  if (cholesky.info() == Eigen::Success && cholesky.rcond() > 1e-10) {
    Eigen::MatrixXd q = cholesky.matrixL().solve(w_transposed);
    return q.transpose().cast<float>();
  }
  Eigen::MatrixXd w = w_transposed.transpose();
  Eigen::MatrixXd q = Eigen::HouseholderQR<Eigen::MatrixXd>(w).householderQ() * Eigen::MatrixXd::Identity(d, dh);
  return q.cast<float>();
}

std::vector<Rows> orthonormal_heads(const Tensor& weight, int64_t dh) {
  int64_t heads = weight.size(0) / dh;
  std::vector<Rows> q(static_cast<size_t>(heads));
  parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) q[size_t(h)] = orthonormal(matrix(weight, h * dh, dh));
  });
  return q;
}

// Greedy: the row with the largest mean over heads of the log of what is left of it outside the rows taken so far, by
// a pivoted Cholesky factorisation of each Q_h Q_h^T whose columns are made as they are needed.
std::vector<int64_t> greedy(const std::vector<Rows>& q, const std::vector<char>& free) {
  int64_t d = q[0].rows(), dh = q[0].cols(), heads = int64_t(q.size());
  std::vector<Eigen::MatrixXf> factor(q.size(), Eigen::MatrixXf(d, dh));
  Eigen::ArrayXXf left(d, heads), logs(d, heads);  // squared norms
  for (int64_t h = 0; h < heads; ++h) left.col(h) = q[size_t(h)].rowwise().squaredNorm();
  std::vector<char> open = free;
  std::vector<int64_t> rows;
  for (int64_t step = 0; step < dh; ++step) {
    parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        if (step > 0) {
          int64_t r = rows.back(), done = step - 1;
          Eigen::MatrixXf& f = factor[size_t(h)];
          Eigen::VectorXf column = q[size_t(h)] * q[size_t(h)].row(r).transpose();
          column.noalias() -= f.leftCols(done) * f.row(r).head(done).transpose();
          column /= std::sqrt(std::max(left(r, h), kTiny));
          f.col(done) = column;
          left.col(h) -= column.array().square();
        }
        logs.col(h) = left.col(h).max(kTiny).log();
      }
    });
    Eigen::ArrayXf score = logs.rowwise().mean();
    int64_t best = -1;
    for (int64_t i = 0; i < d; ++i)
      if (open[size_t(i)] && (best < 0 || score[i] > score[best])) best = i;
    rows.push_back(best);
    open[size_t(best)] = 0;
  }
  return rows;
}

// Exchanges a row of S for another while the mean over heads of log |det Q_h[S]| grows: B_h = Q_h Q_h[S]^-1 holds by
// how much each exchange multiplies the determinant (the joint form of maxvol, Goreinov et al. 2010).
void exchange(const std::vector<Rows>& q, const std::vector<char>& free, std::vector<int64_t>& rows) {
  int64_t d = q[0].rows(), dh = q[0].cols(), heads = int64_t(q.size());
  constexpr double kWorth = 0.01;
  std::vector<char> open = free;
  for (int64_t r : rows) open[size_t(r)] = 0;
  std::vector<Rows> b(q.size());
  parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      Eigen::MatrixXf t(dh, dh);
      for (int64_t i = 0; i < dh; ++i) t.row(i) = q[size_t(h)].row(rows[size_t(i)]);
      b[size_t(h)] = t.transpose().partialPivLu().solve(q[size_t(h)].transpose()).transpose();
    }
  });
  Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> gain(d, dh);
  for (int64_t round = 0; round < 2 * dh; ++round) {
    parallel_for(d, 16, [&](int64_t begin, int64_t end) {
      auto part = gain.middleRows(begin, end - begin);
      part.setOnes();  // products of |B|: what underflows is no candidate
      for (const Rows& m : b) part *= m.middleRows(begin, end - begin).array().abs();
    });
    int64_t from = 0, to = -1;
    double best = std::exp(kWorth * double(heads));
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; open[size_t(i)] && j < dh; ++j)
        if (gain(i, j) > best) best = gain(i, j), to = i, from = j;
    if (to < 0) return;
    parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        Rows& m = b[size_t(h)];
        Eigen::VectorXf column = m.col(from);
        Eigen::RowVectorXf row = m.row(to);
        float pivot = row[from];
        row[from] -= 1;
        m.noalias() -= column * (row / pivot);
      }
    });
    open[size_t(rows[size_t(from)])] = 1;
    open[size_t(to)] = 0;
    rows[size_t(from)] = to;
  }
}

// Mean over heads of ||W[R] - C W[S]||_F / ||W||_F as the paper's residual; 0 in exact arithmetic, so it sees
// conditioning.
double residual(const Tensor& weight, int64_t dh, std::span<const int64_t> rows) {
  int64_t heads = weight.size(0) / dh;
  std::vector<double> relative(static_cast<size_t>(heads));
  parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      Eigen::MatrixXf w = matrix(weight, h * dh, dh).transpose().cast<float>(), t(dh, dh);
      for (int64_t i = 0; i < dh; ++i) t.row(i) = w.row(rows[size_t(i)]);
      Eigen::MatrixXf c = t.transpose().partialPivLu().solve(w.transpose()).transpose();
      relative[size_t(h)] = double((w - c * t).norm()) / std::max(1e-300, double(w.norm()));
    }
  });
  double sum = std::accumulate(relative.begin(), relative.end(), 0.0);
  return std::isfinite(sum) ? sum : std::numeric_limits<double>::infinity();
}

// In the 2-norm; infinite when singular to working precision.
double condition(const Eigen::MatrixXd& t) {
  auto squares =
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(t * t.transpose(), Eigen::EigenvaluesOnly).eigenvalues();
  double low = squares[0], high = squares[squares.size() - 1];
  if (low > 1e-12 * high) return std::sqrt(high / low);
  auto values = Eigen::BDCSVD<Eigen::MatrixXd>(t).singularValues();  // slow, and right for the worst ones
  low = values[values.size() - 1], high = values[0];
  return low > kSingular * high ? high / low : HUGE_VAL;
}

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> r(static_cast<size_t>(end - begin));
  std::iota(r.begin(), r.end(), begin);
  return r;
}

}  // namespace

BasisChoice parse_basis_choice(std::string_view name) {
  if (name == "first") return BasisChoice::first;
  if (name == "last") return BasisChoice::last;
  if (name == "residual_min") return BasisChoice::residual_min;
  if (name == "pivoted") return BasisChoice::pivoted;
  throw Error({.where = "basis",
               .expected = "first, last, residual_min or pivoted",
               .got = std::string(name),
               .code = ExitCode::usage});
}

std::vector<int64_t> choose_basis(const Tensor& weight, int64_t dh, BasisChoice choice, std::span<const int64_t> taken,
                                  const Tensor& partner) {
  int64_t d = weight.size(1);
  std::vector<int64_t> first = range(0, dh), last = range(d - dh, d);
  if (choice == BasisChoice::first) return first;
  if (choice == BasisChoice::last) return last;
  if (choice == BasisChoice::residual_min)
    return residual(weight, dh, first) <= residual(weight, dh, last) ? first : last;
  std::vector<char> free(size_t(d), 1);
  for (int64_t i : taken) free[size_t(i)] = 0;
  if (d - int64_t(taken.size()) < dh)
    throw Error({.where = "basis",
                 .expected = std::to_string(dh) + " channels that are free",
                 .got = std::to_string(d - int64_t(taken.size())),
                 .remedy = "decompose QK or VO alone, or take the first or last rows",
                 .code = ExitCode::usage});
  if (d - int64_t(taken.size()) == dh) {  // no choice
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < d; ++i)
      if (free[size_t(i)]) rows.push_back(i);
    return rows;
  }
  auto q = orthonormal_heads(weight, dh);
  std::vector<int64_t> rows = greedy(q, free);
  if (partner)
    exchange_for_error(weight, dh, partner, free, rows);
  else
    exchange(q, free, rows);
  return rows;
}

BasisFactors decompose(const Tensor& weight, int64_t dh, std::span<const int64_t> rows) {
  int64_t heads = weight.size(0) / dh, d = weight.size(1);
  BasisFactors f;
  f.rows.assign(rows.begin(), rows.end());
  for (int64_t i = 0; i < d; ++i)
    if (std::find(rows.begin(), rows.end(), i) == rows.end()) f.rest.push_back(i);
  f.t = Tensor::empty({heads, dh, dh}, DType::f64);
  f.c = Tensor::empty({heads * dh, d - dh}, DType::f64);
  f.heads.resize(size_t(heads));
  parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      auto w = matrix(weight, h * dh, dh);  // dh x d: W_h^T
      Eigen::MatrixXd t(dh, dh), r(dh, d - dh);
      for (int64_t i = 0; i < dh; ++i) t.row(i) = w.col(f.rows[size_t(i)]).transpose();
      for (int64_t i = 0; i < d - dh; ++i) r.col(i) = w.col(f.rest[size_t(i)]);
      Eigen::PartialPivLU<Eigen::MatrixXd> lu(t.transpose());
      auto c = matrix(f.c, h * dh, dh);
      c = lu.solve(r);  // T^-T W[R]^T = C^T
      Map(f.t.data<double>() + h * dh * dh, dh, dh) = t;
      f.heads[size_t(h)] = {condition(t), d > dh ? c.cwiseAbs().maxCoeff() : 0.0};
    }
  });
  require_independent(f);
  return f;
}

double condition_number(const double* t, int64_t dh) { return condition(Eigen::Map<const Matrix>(t, dh, dh)); }

void require_independent(const BasisFactors& f) {
  for (size_t h = 0; h < f.heads.size(); ++h)
    if (!std::isfinite(f.heads[h].condition) || !std::isfinite(f.heads[h].largest))
      throw Error({.where = "basis decomposition",
                   .expected = "independent rows",
                   .got = "a singular basis in head " + std::to_string(h),
                   .remedy = "use the pivoted basis; a head of zero or low-rank weights has none",
                   .code = ExitCode::bad_file});
}

namespace {

template <class Apply>
Tensor per_head(const Tensor& t, const Tensor& weight, Apply&& apply) {
  int64_t dh = t.size(1), heads = weight.size(0) / dh, group = heads / t.size(0), n = weight.shape().back();
  Tensor out = weight.empty_like();
  parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      Map factor(t.data<double>() + h / group * dh * dh, dh, dh);
      Map from(weight.data<double>() + h * dh * n, dh, n), to(out.data<double>() + h * dh * n, dh, n);
      apply(factor, from, to);
    }
  });
  return out;
}

}  // namespace

Tensor apply_per_head(const Tensor& t, const Tensor& weight) {
  return per_head(t, weight, [](const Map& f, const Map& w, Map& out) { out.noalias() = f * w; });
}

Tensor solve_per_head(const Tensor& t, const Tensor& weight) {
  return per_head(t, weight, [](const Map& f, const Map& w, Map& out) { out = f.transpose().partialPivLu().solve(w); });
}

}  // namespace basis::core
