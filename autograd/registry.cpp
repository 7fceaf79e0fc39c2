#include "autograd/registry.h"

#include <map>

namespace basis::autograd {
namespace {
std::map<std::string, Reference, std::less<>>& references() {
  static std::map<std::string, Reference, std::less<>> all;
  return all;
}
}  // namespace

std::vector<OpEntry>& registry() {
  static std::vector<OpEntry> all;
  return all;
}

bool set_reference(std::string_view op, Reference reference) {
  references()[std::string(op)] = std::move(reference);
  return true;
}

const Reference* find_reference(std::string_view op) {
  auto it = references().find(op);
  return it == references().end() ? nullptr : &it->second;
}

}  // namespace basis::autograd
