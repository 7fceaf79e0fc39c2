// Switches for changes that have not been measured: BASIS_TRY=name,name.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

namespace basis::core {

inline std::string& experiments() {
  static const char* given = std::getenv("BASIS_TRY");
  static std::string all = given ? given : "";
  return all;
}

inline bool experiment(std::string_view name) {
  return ("," + experiments() + ",").find("," + std::string(name) + ",") != std::string::npos;
}

}  // namespace basis::core
