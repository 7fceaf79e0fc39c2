#include "models/module.h"

#include <cmath>
#include <numeric>
#include <unordered_set>

#include "core/parallel.h"
#include "core/rng.h"

namespace basis::models {
namespace {

// FNV-1a: a stable name for a parameter's random stream.
uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3;
  return h;
}

// What core::HostRandom draws one after the other, by all cores: a block of four words gives two values.
template <class T>
Tensor normal_values(const Parameter& p, uint64_t seed, uint64_t stream) {
  Tensor t = Tensor::empty(p.var.shape(), core::dtype_of<T>());
  int64_t n = t.numel();
  T* values = t.data<T>();
  auto normal = [](uint32_t a, uint32_t b) {
    double u = (double(a) + 0.5) * 0x1p-32, v = (double(b) + 0.5) * 0x1p-32;
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  };
  core::parallel_for((n + 1) / 2, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto block = core::philox(seed, stream, uint64_t(i));
      values[2 * i] = T(p.init.std * normal(block.x, block.y));
      if (2 * i + 1 < n) values[2 * i + 1] = T(p.init.std * normal(block.z, block.w));
    }
  });
  return t;
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
  uint64_t stream = hash(p.path);
  return dtype == DType::f32 ? normal_values<float>(p, seed, stream) : normal_values<double>(p, seed, stream).to(dtype);
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
  for (const Entry& e : parameters_) out.push_back({prefix + e.name, *e.var, e.init, e.buffer, e.pace});
  for (const auto& [name, module] : children_) module->collect(name.empty() ? prefix : prefix + name + "/", out);
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> all;
  collect("", all);
  std::unordered_set<const Tensor*> known;
  std::erase_if(all, [&](const Parameter& p) { return !known.insert(&p.var.value()).second; });
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
