// Dense -> low rank -> low rank in Basis Decomposition -> dense, of a whole model, in f64. The first step approximates;
// the others leave the function as it is.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "models/model.h"
#include "trainers/hf/calibration.h"

namespace basis::trainers::hf {

struct LowRankOptions {
  double keep = 0.8;  // of the numbers in each weight, as two factors or (`for_bd`) in Basis Decomposition
  bool for_bd = false;
  bool mlp = true;          // of the MLPs too, not of attention alone
  Calibration calibration;  // weighs errors by the layers' inputs; empty: all inputs alike
};

struct LowRankModel {
  std::unique_ptr<models::Model> model;  // parameters in f64
  // Per layer, by weight ("attention/q", "mlp/up", ...): {"rank", "error"}, or {"rank", "condition", "max_c"} of BD.
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
};

// Each projection of attention, and of the MLPs, by the nearest weight of lower rank; with calibration the bias takes
// up the mean of what is lost. core::Error (usage): latent attention, a `keep` that leaves no rank.
LowRankModel to_low_rank(const models::Model& dense, const LowRankOptions& options);

// Two factors -> Basis Decomposition of the same rank. core::Error (bad_file) where a weight has a lower rank still.
LowRankModel to_low_rank_bd(const models::Model& factors);

// Either form multiplied out; other projectors stay as they are.
std::unique_ptr<models::Model> multiply_out(const models::Model& low_rank);

bool has_low_rank(const configs::ModelConfig& config);  // in any layer or MLP
bool has_factors(const configs::ModelConfig& config);   // of low rank, and not in Basis Decomposition

}  // namespace basis::trainers::hf
