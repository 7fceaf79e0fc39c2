#include "models/module.h"

#include <algorithm>
#include <numeric>

namespace basis::models {
namespace {

// FNV-1a: a stable name for a parameter's random stream.
uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3;
  return h;
}

Tensor initial_value(const Parameter& p, uint64_t seed, DType dtype) {
  if (p.buffer) dtype = DType::f32;
  if (p.init.kind == Init::Kind::count) {
    std::vector<double> values(size_t(p.var.value().numel()));
    std::iota(values.begin(), values.end(), 0.0);
    return Tensor::from(values, p.var.shape()).to(dtype);
  }
  if (p.init.kind != Init::Kind::normal)
    return Tensor::full(p.var.shape(), p.init.kind == Init::Kind::ones ? 1 : 0, dtype);
  core::HostRandom random(seed, hash(p.path));
  std::vector<double> values(size_t(p.var.value().numel()));
  for (double& v : values) v = p.init.std * random.normal();
  return Tensor::from(values, p.var.shape()).to(dtype);
}

}  // namespace

Var& Module::parameter(Var& member, std::string name, const Shape& shape, Init init) {
  member = Var(Tensor::empty(shape, DType::f32), true);
  parameters_.push_back({std::move(name), &member, init});
  return member;
}

Var& Module::buffer(Var& member, std::string name, const Shape& shape) {
  member = Var(Tensor::empty(shape, DType::f32), false);
  parameters_.push_back({std::move(name), &member, Init::count(), true});
  return member;
}

void Module::collect(const std::string& prefix, std::vector<Parameter>& out) const {
  for (const Entry& e : parameters_) {
    bool known = std::any_of(out.begin(), out.end(), [&](const Parameter& p) { return p.var.same(*e.var); });
    if (!known) out.push_back({prefix + e.name, *e.var, e.init, e.buffer});
  }
  for (const auto& [name, module] : children_) module->collect(name.empty() ? prefix : prefix + name + "/", out);
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> all;
  collect("", all);
  return all;
}

int64_t Module::parameter_count() const {
  int64_t n = 0;
  for (const Parameter& p : parameters()) n += p.buffer ? 0 : p.var.value().numel();
  return n;
}

void Module::initialize(uint64_t seed, Device device, DType dtype) {
  for (Parameter& p : parameters()) p.var.set_value(initial_value(p, seed, dtype).to(device));
}

}  // namespace basis::models
