#include "trainers/optim/optimizer.h"

#include "core/basic/basic.h"
#include "trainers/optim/groups.h"

namespace basis::trainers {

using core::DType;

Optimizer::Optimizer(const configs::OptimizerConfig& c, std::vector<models::Parameter> parameters,
                     bool dynamic_loss_scale)
    : adamw_(c.type == "adamw"), dynamic_(dynamic_loss_scale), hyper_{c.betas.at(0), c.betas.at(1), c.eps, c.momentum} {
  core::Device device = core::cpu;
  std::vector<GroupSettings> settings = group_settings(c, parameters);
  for (size_t i = 0; i < parameters.size(); ++i) {
    models::Parameter& p = parameters[i];
    const Tensor& value = p.var.value();
    device = value.device();
    if (!p.var.requires_grad()) continue;  // a buffer, or frozen
    Tensor first = Tensor::zeros(value.shape(), value.dtype(), device);
    Tensor second = adamw_ ? Tensor::zeros(value.shape(), value.dtype(), device) : Tensor();
    slots_.push_back({std::move(p.path), p.var, settings[i].lr_scale, settings[i].weight_decay, first, second});
    if (c.gauge_rates) slots_.back().pace = p.pace;
  }
  std::vector<double> initial(kScalars, 0.0);
  initial[kLossScale] = dynamic_ ? 65536 : 1;
  scalars_ = Tensor::from(initial, {kScalars}, device);
}

void Optimizer::step(double learning_rate, double max_norm, const std::function<void(const Tensor&)>& sum_over_ranks) {
  set_rates(learning_rate, max_norm);
  update(sum_over_ranks);
}

void Optimizer::set_rates(double learning_rate, double max_norm) {
  core::fill(scalars_.slice(0, kLearningRate, kLearningRate + 1), learning_rate);
  core::fill(scalars_.slice(0, kMaxNorm, kMaxNorm + 1), max_norm);
}

void Optimizer::clear_gradients() {
  for (Slot& s : slots_) s.parameter.zero_grad();
}

void Optimizer::update(const std::function<void(const Tensor&)>& sum_over_ranks) {
  auto type = scalars_.device().type;
  Tensors gradients;
  std::vector<Update> updates;
  for (const Slot& s : slots_) {
    if (!s.parameter.grad()) continue;
    gradients.push_back(s.parameter.grad().contiguous());
    const auto& [rate, decay] = *s.pace;
    updates.push_back({s.parameter.value(), gradients.back(), s.first, s.second, s.copy, s.lr_scale * rate,
                       rate > 0 ? s.weight_decay * decay / rate : 0});  // the kernels decay by lr_scale weight_decay
  }
  core::fill(scalars_.slice(0, kSquaredNorm, kSquaredNorm + 1), 0);
  if (!updates.empty()) add_squared_norms(type, gradients[0].dtype(), gradients, scalars_);
  if (sum_over_ranks) sum_over_ranks(scalars_.slice(0, kSquaredNorm, kSquaredNorm + 1));
  finish_norm(type, DType::f64, scalars_, dynamic_);
  if (!updates.empty())
    (adamw_ ? adamw_update : sgd_update)(type, updates[0].parameter.dtype(), hyper_, scalars_, updates);
  clear_gradients();
}

void Optimizer::keep_copies(DType dtype) {
  copies_.clear();
  // One block in the order of the parameters: alike ones at equal distances can be multiplied as a batch (ops/linear).
  constexpr int64_t align = 128;
  int64_t size = 0;
  for (const Slot& s : slots_) size += (s.parameter.value().numel() + align - 1) / align * align;
  Tensor all = Tensor::empty({size}, dtype, scalars_.device());
  int64_t at = 0;
  for (Slot& s : slots_) {
    const Tensor& value = s.parameter.value();
    s.copy = all.slice(0, at, at + value.numel()).view(value.shape());
    s.copy.copy_from(value);
    copies_[value.raw()] = s.copy;
    at += (value.numel() + align - 1) / align * align;
  }
}

StepResult Optimizer::result() const {
  auto values = scalars_.to_vector<double>();
  return {values[kNorm], values[kSkip] != 0};
}

Tensor Optimizer::loss_cotangent(DType dtype) const {
  return scalars_.slice(0, kLossScale, kLossScale + 1).to(dtype).view({});
}

}  // namespace basis::trainers
