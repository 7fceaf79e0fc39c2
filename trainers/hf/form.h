// The form of a model's projections, as basis convert is asked to change it.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "models/model.h"
#include "trainers/data/tokenizer.h"
#include "trainers/hf/convert.h"

namespace basis::trainers::hf {

struct Reformed {
  std::shared_ptr<models::Model> model;
  // The model whose function `model` has; null: the source's. Low rank approximates, and Basis Decomposition keeps
  // that.
  std::shared_ptr<models::Model> approximation;
};

// `model` in the form that the options ask for: itself when it has that already; dense where Hugging Face is to load it
// (`basis` false). Adds "basis" and "layers", or "keep" and "low_rank", to the report. core::Error: usage for what does
// not exist, bad_file for a singular basis or an unusable calibration text.
Reformed change_form(const ConvertOptions& options, bool basis, std::unique_ptr<models::Model> model,
                     const TokenizerPtr& tokenizer, nlohmann::ordered_json& report);

}  // namespace basis::trainers::hf
