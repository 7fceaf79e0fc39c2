#include "trainers/hf/head_errors.h"

#include <algorithm>

#include "core/rng.h"

namespace basis::trainers::hf {
namespace {

using core::Tensor;
using nlohmann::ordered_json;
using Matrix = LayerErrors::Matrix;
using Map = Eigen::Map<const Matrix>;
constexpr int64_t kProbes = 32;

Map matrix(const Tensor& t) { return {t.data<double>(), t.size(0), t.size(1)}; }

Matrix probes(int64_t d) {
  core::HostRandom random(7, 0);
  Matrix u(d, kProbes);
  for (int64_t i = 0; i < u.size(); ++i) u.data()[i] = random.normal();
  return u;
}

// The product of head h applied to the probes: q and k are stored [H dh, d], out [d, H dv].
Matrix query_key(const Tensor& q, const Tensor& k, int64_t h, int64_t group, int64_t dh, const Matrix& u) {
  return matrix(q).middleRows(h * dh, dh).transpose() * (matrix(k).middleRows(h / group * dh, dh) * u);
}
Matrix value_out(const Tensor& v, const Tensor& out, int64_t h, int64_t group, int64_t dv, const Matrix& u) {
  return matrix(out).middleCols(h * dv, dv) * (matrix(v).middleRows(h / group * dv, dv) * u);
}

ordered_json median_and_max(std::vector<double> x) {
  if (x.empty()) return nullptr;
  ordered_json heads = x;
  std::sort(x.begin(), x.end());
  return {{"median", x[x.size() / 2]}, {"max", x.back()}, {"heads", heads}};
}

}  // namespace

LayerErrors::LayerErrors(const AttentionWeights& exact, int64_t head_dim, int64_t group)
    : dh_(head_dim), dv_(exact.v.size(0) / (exact.k.size(0) / head_dim)), group_(group) {
  int64_t heads = exact.q.size(0) / dh_;
  key_probes_ = probes(exact.k.size(1)), value_probes_ = probes(exact.v.size(1));
  for (int64_t h = 0; h < heads; ++h) {
    exact_qk_.push_back(query_key(exact.q, exact.k, h, group_, dh_, key_probes_));
    exact_vo_.push_back(value_out(exact.v, exact.out, h, group_, dv_, value_probes_));
  }
}

void LayerErrors::add(const std::string& dtype, const AttentionWeights& bd, const AttentionWeights& dense) {
  auto relative = [](const Matrix& got, const Matrix& want) {
    return (got - want).norm() / std::max(1e-300, want.norm());
  };
  for (auto [name, w] : {std::pair(dtype, &bd), std::pair("dense_" + dtype, &dense)}) {
    for (size_t h = 0; h < exact_qk_.size(); ++h) {
      qk_[name].push_back(relative(query_key(w->q, w->k, int64_t(h), group_, dh_, key_probes_), exact_qk_[h]));
      vo_[name].push_back(relative(value_out(w->v, w->out, int64_t(h), group_, dv_, value_probes_), exact_vo_[h]));
    }
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
