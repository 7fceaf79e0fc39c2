// basis convert: Hugging Face <-> Basis, dense <-> BD, with a report and a verification.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/dtype.h"

namespace basis::trainers::hf {

struct ConvertOptions {
  std::filesystem::path source;       // Hugging Face directory, Basis run directory or checkpoint
  std::filesystem::path destination;  // must not exist, or be an empty directory
  std::string to;                     // "basis" | "hf"; empty: what the source is not
  std::string dtype;                  // of the stored weights: f32 | bf16 | f16; empty: as the source stores them
  std::string projector;              // "dense" | "bd"; empty: as the source has it, dense for Hugging Face
  std::string basis = "pivoted";      // of bd: first | last | residual_min | pivoted
  bool qk = true, vo = true;          // of bd: what is decomposed
  bool verify = true;                 // compare logits before and after on random tokens
};

// Does all of it under a temporary name and renames at the end: on any failure nothing is left at the destination.
// Returns the report. core::Error: bad_file for a source that cannot be used, usage for a destination that is not empty
// or a conversion that does not exist, mismatch when the logits moved by more than the report's "tolerance".
nlohmann::ordered_json convert(const ConvertOptions& options);

// The report as text for people.
std::string describe(const nlohmann::ordered_json& report);

}  // namespace basis::trainers::hf
