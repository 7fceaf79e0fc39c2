// A model's weights as a change of gauge sees them: by path, in f64, layer by layer.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
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
  const core::Shape& shape(const std::string& path) const { return parameters_.at(path).var.shape(); }
  void set(const std::string& path, const core::Tensor& value) {
    models::Var& var = parameters_.at(path).var;
    var.set_value(value.view(var.shape()).to(var.dtype()));
  }
  void set_pace(const std::string& path, const models::Pace& pace) {
    if (has(path)) *parameters_.at(path).pace = pace;
  }
  void set_if(const std::string& path, const core::Tensor& value) {
    if (has(path)) set(path, value);
  }
  // An order of channels, a buffer of whole numbers; 0, 1, 2, ... where the model has none.
  std::vector<int64_t> order(const std::string& path, int64_t channels) const {
    std::vector<int64_t> order(static_cast<size_t>(channels));
    std::iota(order.begin(), order.end(), 0);
    if (!has(path)) return order;
    auto values = get(path).to_vector<double>();
    return {values.begin(), values.end()};
  }
  void set_order(const std::string& path, const std::vector<int64_t>& order) {
    set(path, core::Tensor::from(std::vector<double>(order.begin(), order.end()), {int64_t(order.size())}));
  }
  // Takes over from `other` what both hold in the same shape, memory and all; the rest is the caller's.
  void copy_common(const Weights& other) {
    for (auto& [path, p] : parameters_) {
      auto source = other.parameters_.find(path);
      if (source == other.parameters_.end()) continue;
      const core::Tensor& x = source->second.var.value();
      if (x.shape() == p.var.shape())
        p.var.set_value(x.to(core::cpu).to(p.var.dtype())), *p.pace = *source->second.pace;
    }
  }

 private:
  std::map<std::string, models::Parameter> parameters_;
};

// A model of `config` whose parameters are of `dtype`, with values yet to be set.
inline std::unique_ptr<models::Model> empty_model(const configs::ModelConfig& config, core::DType dtype) {
  auto model = models::make_model(config);
  for (models::Parameter& p : model->parameters())
    if (!p.buffer) p.var.set_value(core::Tensor::empty(p.var.shape(), dtype));
  return model;
}

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
