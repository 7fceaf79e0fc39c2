// AdamW (Loshchilov & Hutter, arXiv 1711.05101) and SGD with momentum, fused: one launch for all parameters reads
// gradient and state and writes parameter, state and, where asked for, the parameter's 16-bit copy. Clipping, bias
// correction, loss scaling and the decision to skip a non-finite step happen on the device, so a step needs no word
// from the host.
//
//   g = grad min(1, clip / (||grad|| + 1e-6)) / loss_scale
//   adamw:  m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
//           p = p (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//   sgd:    m = mu m + g,           p = p (1 - lr wd) - lr m
//
// lr and wd are a parameter's own where optimizer.groups names it (groups.h), lr times its pace's rate and lr wd times
// its decay where a change of basis has rescaled it (models::Pace, optimizer.gauge_rates).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "configs/train_config.h"
#include "core/kernel.h"
#include "models/module.h"
#include "models/pass.h"

namespace basis::trainers {

using core::Tensor;

// What a step needs besides tensors: one f64 tensor on the device, one element each.
enum Scalar : int64_t {
  kLearningRate,
  kMaxNorm,      // 0: no clipping
  kSquaredNorm,  // of this step's (scaled) gradient
  kNorm,         // its root, unscaled
  kFactor,       // applied to the gradient
  kSkip,         // 1: the gradient was not finite and nothing was updated
  kTime,         // t: updates done
  kLossScale,    // 1, or the dynamic scale under f16
  kGoodSteps,    // since the loss scale last changed
  kScalars
};

struct Hyper {
  double beta1, beta2, eps, momentum;
};

// One parameter's update: tensors of equal size, contiguous, of one dtype but for `copy`.
struct Update {
  Tensor parameter, gradient, first, second;  // `second` only for adamw
  Tensor copy;                                // bf16 or f16: receives the new parameter, rounded; or undefined
  double lr_scale, weight_decay;
};

struct StepResult {
  double grad_norm;
  bool skipped;
};

class Optimizer {
 public:
  struct Slot {
    std::string path;
    models::Var parameter;
    double lr_scale, weight_decay;
    Tensor first, second;  // moments; `second` only for adamw
    Tensor copy = {};      // see keep_copies
    std::shared_ptr<const models::Pace> pace = std::make_shared<models::Pace>();
  };

  // `dynamic_loss_scale`: f16. Parameters that require no gradient (frozen) have no slot. Throws core::Error (usage)
  // when a group of the config matches no parameter.
  Optimizer(const configs::OptimizerConfig& config, std::vector<models::Parameter> parameters, bool dynamic_loss_scale);

  // One update from the parameters' gradients, which are then cleared. `sum_over_ranks` gets the squared norm of this
  // optimizer's gradients, [1] f64 on the device, where other ranks hold the rest.
  void step(double learning_rate, double max_norm, const std::function<void(const Tensor&)>& sum_over_ranks = {});
  // The two halves of step(): what the host decides, written to the device, and the device work alone, which may be
  // recorded as a graph.
  void set_rates(double learning_rate, double max_norm);
  void update(const std::function<void(const Tensor&)>& sum_over_ranks = {});
  void clear_gradients();
  // From now on every update also writes the parameters in `dtype` (bf16 or f16), so that a forward pass casts nothing.
  // Called once the parameters have their values; who writes them otherwise afterwards must call it again.
  void keep_copies(core::DType dtype);
  const models::WeightCopies& copies() const { return copies_; }
  StepResult result() const;  // of the last step; waits for the device
  // The cotangent of the loss: the loss scale as a scalar of `dtype` on the device.
  Tensor loss_cotangent(core::DType dtype) const;

  std::vector<Slot>& slots() { return slots_; }
  const std::vector<Slot>& slots() const { return slots_; }
  const Tensor& scalars() const { return scalars_; }
  bool is_adamw() const { return adamw_; }

 private:
  bool adamw_, dynamic_;
  Hyper hyper_;
  std::vector<Slot> slots_;
  Tensor scalars_;  // f64 [kScalars]
  models::WeightCopies copies_;
};

using Tensors = std::vector<Tensor>;

// scalars[kSquaredNorm] += sum of x^2, one tensor after the other; by the tensors' dtype. Contiguous.
inline constinit core::KernelTable<void(const Tensors& xs, const Tensor& scalars)> add_squared_norms{"gradient norm"};
// Turns kSquaredNorm into kNorm, kFactor, kSkip, and advances kTime and the loss scale. By f64.
inline constinit core::KernelTable<void(const Tensor& scalars, bool dynamic_loss_scale)> finish_norm{"gradient norm"};
// By the parameters' dtype. The same bits as one call for each update.
inline constinit core::KernelTable<void(const Hyper&, const Tensor& scalars, const std::vector<Update>&)> adamw_update{
    "adamw"};
inline constinit core::KernelTable<void(const Hyper&, const Tensor& scalars, const std::vector<Update>&)> sgd_update{
    "sgd"};

}  // namespace basis::trainers
