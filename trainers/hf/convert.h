// basis convert: Hugging Face <-> Basis, dense <-> BD, with a report and a verification.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace basis::trainers::hf {

struct ConvertOptions {
  std::filesystem::path source;       // Hugging Face directory, Basis run directory or checkpoint
  std::filesystem::path destination;  // must not exist, or be an empty directory
  std::string to;                     // "basis" | "hf"; empty: what the source is not
  std::string dtype;                  // of the stored weights: f32 | bf16 | f16; empty: as the source stores them
  std::string projector;              // "dense" | "bd" | "low_rank" | "low_rank_bd"; empty: as the source has it
  std::string basis = "pivoted";      // of bd: first | last | residual_min | pivoted
  bool qk = true, vo = true;          // of bd: what is decomposed
  std::string device = "cpu";         // of bd: where it is computed: auto | cpu | cuda
  std::vector<int64_t> layers;        // of bd: only these, the others as they are; empty: all
  double keep = 0;                    // of low rank: the share of each weight's numbers that is left; 0: all there are
  bool mlp = true;                    // of low rank: the MLPs too
  std::filesystem::path calibration;  // of low rank: a text whose activations weigh the errors; empty: none
  int64_t calibration_tokens = 16384;
  bool verify = true;  // compare logits before and after on random tokens
};

// Does all of it under a temporary name and renames at the end: on any failure nothing is left at the destination.
// Returns the report. core::Error: bad_file for a source that cannot be used, usage for a destination that is not empty
// or a conversion that does not exist, mismatch when the logits moved by more than the report's "tolerance".
nlohmann::ordered_json convert(const ConvertOptions& options);

// The report as text for people.
std::string describe(const nlohmann::ordered_json& report);

}  // namespace basis::trainers::hf
