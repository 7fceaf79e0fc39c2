// JSON of tokenizer files: parsing with errors as core::Error, and the own format's frame.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "trainers/data/bpe.h"
#include "trainers/data/files.h"

namespace basis::trainers {

inline constexpr std::string_view kTokenizerFormat = "basis tokenizer";

inline nlohmann::json tokenizer_json(std::string_view type) {
  return {{"format", kTokenizerFormat}, {"version", 1}, {"type", type}};
}

// Runs `f`, whose JSON lookups may fail, and converts such a failure.
template <class F>
auto with_json_errors(const std::string& name, F&& f) {
  try {
    return f();
  } catch (const nlohmann::json::exception& e) {
    throw bad_file(name, "a tokenizer", e.what());
  }
}

// Refuses nesting that would exhaust the stack.
nlohmann::json parse_json(std::string_view text, const std::string& name);

nlohmann::json bpe_to_json(const BpeModel& model);
BpeModel bpe_from_json(const nlohmann::json& j, const std::string& name);

}  // namespace basis::trainers
