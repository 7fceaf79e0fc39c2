// What rounding does to the products Wq Wk^T and Wv Wo of each head, dense and in BD form.
#pragma once

#include <Eigen/Dense>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/factor/basis.h"

namespace basis::trainers::hf {

// f64: q [H dh, d], k [Hkv dh, d], v [Hkv dv, d], out [d, H dv]; k and v may read fewer channels than q, a latent's.
struct AttentionWeights {
  core::Tensor q, k, v, out;
};

// Relative errors in the Frobenius norm, estimated with 32 random vectors a head.
class LayerErrors {
 public:
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  LayerErrors(const AttentionWeights& exact, int64_t head_dim, int64_t group);
  void add(const std::string& dtype, const AttentionWeights& bd, const AttentionWeights& dense);
  // {"qk": {"condition": {"median", "max", "heads": [...]}, "max_c": ..., "f32": ..., "dense_f32": ..., ...}, "vo":
  // ...}
  nlohmann::ordered_json report(const std::vector<core::HeadFactor>& qk, const std::vector<core::HeadFactor>& vo) const;

 private:
  int64_t dh_, dv_, group_;
  Matrix key_probes_, value_probes_;
  std::vector<Matrix> exact_qk_, exact_vo_;             // per head, applied to the probes
  std::map<std::string, std::vector<double>> qk_, vo_;  // by column of the report, per head
};

}  // namespace basis::trainers::hf
