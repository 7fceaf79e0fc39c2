// A model's weights as a change of gauge sees them: by path, in f64, layer by layer.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "models/model.h"

namespace basis::trainers::hf {

// Parameters by path, read and written as f64.
class Weights {
 public:
  explicit Weights(const models::Model& model) {
    for (models::Parameter& p : model.parameters()) parameters_.emplace(p.path, p);
  }
  bool has(const std::string& path) const { return parameters_.contains(path); }
  core::Tensor get(const std::string& path) const {
    return parameters_.at(path).var.value().to(core::cpu).to(core::DType::f64).contiguous();
  }
  void set(const std::string& path, const core::Tensor& value) {
    models::Var& var = parameters_.at(path).var;
    var.set_value(value.view(var.shape()).to(var.dtype()));
  }
  void set_if(const std::string& path, const core::Tensor& value) {
    if (has(path)) set(path, value);
  }
  const std::map<std::string, models::Parameter>& all() const { return parameters_; }

 private:
  std::map<std::string, models::Parameter> parameters_;
};

// work(layer) for every layer, several at a time; throws what the first failing layer threw.
template <class Work>
void for_each_layer(int64_t layers, Work&& work) {
  std::vector<std::exception_ptr> failed(static_cast<size_t>(layers));
  core::parallel_for(layers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      try {
        work(i);
      } catch (...) {
        failed[size_t(i)] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& e : failed)
    if (e) std::rethrow_exception(e);
}

}  // namespace basis::trainers::hf
