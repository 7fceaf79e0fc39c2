#include "trainers/hf/head_errors.h"

#include <Eigen/Dense>
#include <algorithm>

#include "core/parallel.h"
#include "core/rng.h"

namespace basis::trainers::hf {
namespace {

using core::Tensor;
using nlohmann::ordered_json;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<const Matrix>;
constexpr int64_t kProbes = 32;

Map matrix(const Tensor& t) { return {t.data<double>(), t.size(0), t.size(1)}; }

Matrix probes(int64_t d) {
  core::HostRandom random(7, 0);
  Matrix u(d, kProbes);
  for (int64_t i = 0; i < u.size(); ++i) u.data()[i] = random.normal();
  return u;
}

// a_h^T (b_g u): the product of a head applied to the probes. a [d', H dh] read by columns of heads.
Matrix apply(const Matrix& a_columns, const Tensor& b, int64_t h, int64_t g, int64_t dh, const Matrix& u) {
  return a_columns.middleCols(h * dh, dh) * (matrix(b).middleRows(g * dh, dh) * u);
}

std::vector<double> errors(const Matrix& exact_a, const Tensor& exact_b, const Matrix& a, const Tensor& b, int64_t dh,
                           int64_t group) {
  Matrix u = probes(exact_b.size(1));
  std::vector<double> e(static_cast<size_t>(exact_a.cols() / dh));
  core::parallel_for(int64_t(e.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      Matrix want = apply(exact_a, exact_b, h, h / group, dh, u), got = apply(a, b, h, h / group, dh, u);
      e[size_t(h)] = (got - want).norm() / std::max(1e-300, want.norm());
    }
  });
  return e;
}

ordered_json median_and_max(std::vector<double> x) {
  if (x.empty()) return nullptr;
  std::sort(x.begin(), x.end());
  return {{"median", x[x.size() / 2]}, {"max", x.back()}};
}

}  // namespace

void LayerErrors::add(const std::string& dtype, const AttentionWeights& bd, const AttentionWeights& dense) {
  int64_t value_dim = exact_.v.size(0) / (exact_.k.size(0) / dh_);
  for (auto [name, w] : {std::pair(dtype, &bd), std::pair("dense_" + dtype, &dense)}) {
    Matrix exact_q = matrix(exact_.q).transpose(), q = matrix(w->q).transpose();
    qk_[name] = errors(exact_q, exact_.k, q, w->k, dh_, group_);
    vo_[name] = errors(matrix(exact_.out), exact_.v, matrix(w->out), w->v, value_dim, group_);
  }
}

ordered_json LayerErrors::report(const std::vector<core::HeadFactor>& qk,
                                 const std::vector<core::HeadFactor>& vo) const {
  auto side = [](const std::vector<core::HeadFactor>& heads, const auto& columns) {
    ordered_json j;
    std::vector<double> condition, largest;
    for (const auto& h : heads) condition.push_back(h.condition), largest.push_back(h.largest);
    j["condition"] = median_and_max(condition), j["max_c"] = median_and_max(largest);
    for (const auto& [name, values] : columns) j[name] = median_and_max(values);
    return j;
  };
  ordered_json j;
  if (!qk.empty()) j["qk"] = side(qk, qk_);
  if (!vo.empty()) j["vo"] = side(vo, vo_);
  return j;
}

}  // namespace basis::trainers::hf
