// Switches for changes that have not been measured: BASIS_TRY=name,name.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

namespace basis::core {

inline bool experiment(std::string_view name) {
  static const std::string all = [] {
    const char* given = std::getenv("BASIS_TRY");
    return given ? "," + std::string(given) + "," : std::string();
  }();
  return all.find("," + std::string(name) + ",") != std::string::npos;
}

}  // namespace basis::core
