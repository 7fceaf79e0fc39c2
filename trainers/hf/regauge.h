// Dense <-> Basis Decomposition of a whole model. Computed in f64 from the weights given; the function stays the same.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/factor/basis.h"
#include "models/model.h"

namespace basis::trainers::hf {

struct RegaugeOptions {
  std::string basis = "pivoted";  // first | last | residual_min | pivoted
  bool qk = true, vo = true;
  std::map<int64_t, configs::ProjectorConfig> layers;  // only these, each by its own basis, qk and vo; empty: all
  bool report = true;                                  // condition and errors of each head
  core::Device device = core::cpu;                     // where the rows are chosen and the factors computed
};

struct Regauged {
  std::unique_ptr<models::Model> model;  // parameters in the dtype of the source's; those that stay share its memory
  // Per layer, for "qk" and "vo": of the worst, the median and every head "condition", "max_c", and the relative error
  // of the product after rounding the factors to "f32", "f16" and "bf16", beside that of the dense factors.
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
};

// The layers to change must be dense. core::Error: usage where BD is impossible (QK under rotary positions), bad_file
// for a singular basis.
Regauged to_bd(const models::Model& dense, const RegaugeOptions& options);

// [I ; C] written out as dense weights; the key bias, which softmax does not see, becomes 0.
std::unique_ptr<models::Model> to_dense(const models::Model& bd);

bool has_bd(const configs::ModelConfig& config);  // in any layer

}  // namespace basis::trainers::hf
