#include "core/factor/least_error.h"

#include <Eigen/Dense>
#include <cmath>

#include "core/parallel.h"

namespace basis::core {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Wide = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Wide>;

constexpr int64_t kRounds = 5;   // trained weights stop after one to three exchanges
constexpr float kWorth = 0.99f;  // of the objective, or an exchange is not made

struct Head {
  Rows b;             // d x dh: W T^-1
  Eigen::VectorXf p;  // d: |row i of W P|^2 of |W P|^2
  Rows error_if;      // d x dh: E_h after channel i took the place of row j
};

Map matrix(const Tensor& t, int64_t first_row, int64_t rows) {
  int64_t columns = t.size(1);
  return {t.data<double>() + first_row * columns, rows, columns};
}

Head read_head(const Tensor& weight, int64_t dh, const Tensor& partner, int64_t h, const std::vector<int64_t>& rows) {
  int64_t d = weight.size(1), group = partner.size(0) / weight.size(0);
  auto w = matrix(weight, h * dh, dh);  // dh x d
  Eigen::MatrixXd t(dh, dh);
  for (int64_t j = 0; j < dh; ++j) t.row(j) = w.col(rows[size_t(j)]).transpose();
  Eigen::MatrixXf inverse = t.partialPivLu().inverse().cast<float>();
  Rows wide = w.transpose().cast<float>();
  Head head{wide * inverse, Eigen::VectorXf::Zero(d), Rows(d, dh)};
  for (int64_t g = 0; g < group; ++g) {
    auto p = matrix(partner, (h * group + g) * dh, dh);
    Rows partner_rows = p.cast<float>();
    Eigen::MatrixXf gram = partner_rows * partner_rows.transpose();
    Eigen::VectorXf squares = (wide * gram).cwiseProduct(wide).rowwise().sum();
    head.p += squares / std::max(1e-30f, squares.sum());
  }
  return head;
}

// Fills error_if and returns E_h now. With B's Gram matrix G; an exchange of j for i takes the share B[i, m] / B[i, j]
// of column j from column m, and divides column j itself by B[i, j].
float weigh(Head& head, const std::vector<int64_t>& rows) {
  const Rows& b = head.b;
  Eigen::RowVectorXf taken(b.cols());
  for (int64_t j = 0; j < b.cols(); ++j) taken[j] = head.p[rows[size_t(j)]];
  Eigen::MatrixXf gram = b.transpose() * b;
  Eigen::RowVectorXf g = gram.diagonal();
  float now = (taken.array() * (2 * g.array() - 1)).sum();
  Rows weighed = b.array().rowwise() * taken.array();
  Eigen::VectorXf r = weighed.cwiseProduct(b).rowwise().sum() + head.p;
  Rows cross = weighed * gram;
  auto inverse = b.array().inverse();
  head.error_if = inverse.square().colwise() * (2 * r.array());
  head.error_if.array().rowwise() *= g.array();
  head.error_if.array() -= 4 * cross.array() * inverse;
  head.error_if.array().rowwise() += now + taken.array();
  head.error_if.array().colwise() -= head.p.array();
  return now;
}

void exchange(Rows& b, int64_t from, int64_t to) {
  Eigen::VectorXf column = b.col(from);
  Eigen::RowVectorXf row = b.row(to) / b(to, from);
  row[from] = 1 - 1 / b(to, from);
  b.noalias() -= column * row;
}

}  // namespace

void exchange_for_error(const Tensor& weight, int64_t dh, const Tensor& partner, const std::vector<char>& free,
                        std::vector<int64_t>& rows) {
  int64_t heads = weight.size(0) / dh, d = weight.size(1);
  std::vector<Head> all(static_cast<size_t>(heads));
  std::vector<float> now(all.size());
  parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) all[size_t(h)] = read_head(weight, dh, partner, h, rows);
  });
  std::vector<char> open = free;
  for (int64_t r : rows) open[size_t(r)] = 0;
  Rows sum(d, dh);
  for (int64_t round = 0; round < kRounds; ++round) {
    parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) now[size_t(h)] = weigh(all[size_t(h)], rows);
    });
    float best = 0;
    for (float e : now) best += e * e;
    best *= kWorth;
    sum.setZero();
    for (const Head& h : all) sum.array() += h.error_if.array().square();
    int64_t to = -1, from = 0;
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; open[size_t(i)] && j < dh; ++j)
        if (sum(i, j) < best) best = sum(i, j), to = i, from = j;  // not for what is no number
    if (to < 0) return;
    open[size_t(rows[size_t(from)])] = 1;
    open[size_t(to)] = 0;
    rows[size_t(from)] = to;
    parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) exchange(all[size_t(h)].b, from, to);
    });
  }
}

}  // namespace basis::core
