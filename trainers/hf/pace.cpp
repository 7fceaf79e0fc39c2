#include "trainers/hf/pace.h"

#include <cmath>

namespace basis::trainers::hf {
namespace {

using Matrix = LayerErrors::Matrix;
using Map = Eigen::Map<const Matrix>;

Map matrix(const core::Tensor& t) { return {t.data<double>(), t.size(0), t.size(1)}; }

// The largest singular value, to about a percent: power iteration.
double spectral_norm(const Matrix& a) {
  Eigen::VectorXd x = Eigen::VectorXd::LinSpaced(a.rows(), 1, 2);
  double norm = 0;
  for (int i = 0; i < 8; ++i) {
    Eigen::VectorXd y = a * (a.transpose() * x.normalized());
    norm = std::sqrt(y.norm()), x = y;
    if (norm == 0) break;
  }
  return norm;
}

// Of heads, between one factor and the same re-gauged: before over after, its geometric mean.
template <class Head>
double ratio(int64_t heads, const core::Tensor& before, const core::Tensor& after, Head&& head) {
  double sum = 0;
  for (int64_t h = 0; h < heads; ++h) {
    double a = spectral_norm(head(matrix(before), h)), b = spectral_norm(head(matrix(after), h));
    if (a > 0 && b > 0) sum += std::log(a / b);
  }
  return std::exp(sum / double(heads));
}

}  // namespace

AttentionPaces gauge_paces(const AttentionWeights& dense, const AttentionWeights& bd, int64_t dh, bool qk, bool vo) {
  int64_t heads = dense.q.size(0) / dh, kv_heads = dense.k.size(0) / dh, dv = dense.v.size(0) / kv_heads;
  auto rows = [](int64_t width) {
    return [width](const Map& m, int64_t h) -> Matrix { return m.middleRows(h * width, width); };
  };
  auto columns = [dv](const Map& m, int64_t h) -> Matrix { return m.middleCols(h * dv, dv).transpose(); };
  AttentionPaces paces;
  if (qk) {
    paces.q = {ratio(kv_heads, dense.k, bd.k, rows(dh)), 2};
    paces.k = {ratio(heads, dense.q, bd.q, rows(dh)), 0};
  }
  if (vo) {
    paces.out = {ratio(kv_heads, dense.v, bd.v, rows(dv)), 2};
    paces.v = {ratio(heads, dense.out, bd.out, columns), 0};
  }
  return paces;
}

}  // namespace basis::trainers::hf
