// Which optional libraries this program was built with.
#pragma once

#include <span>
#include <string>

namespace basis::trainers {

struct Feature {
  const char* name;
  bool built_in;
  const char* purpose;
  const char* remedy;  // how to get it
};
std::span<const Feature> features();

std::string version_text();  // the program's version, compiler and features: what --version prints

}  // namespace basis::trainers
