// One optimizer step's forward and backward passes, and evaluation.
#pragma once

#include "configs/train_config.h"
#include "models/model.h"
#include "trainers/data/dataset.h"
#include "trainers/data_parallel.h"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {

// The device a run uses: run.device, with auto meaning the first GPU when there is one. Throws core::Error (usage) when
// a GPU is asked for and none can be used.
core::Device choose_device(const std::string& name);

// A step's global batch, cut into micro-batches; `scored` targets in all.
struct StepBatch {
  std::vector<Batch> micro;
  int64_t scored = 0;
};
StepBatch read_batch(const Dataset& data, int64_t step, const configs::TrainConfig& config);

// A micro-batch on the device: inputs [B,T], targets [B*T], i32.
struct MicroBatch {
  Tensor inputs, targets;
};
MicroBatch to_device(const Batch& batch, core::Device device);

// Adds the gradient of the mean loss over all tokens of the global batch to the parameters' gradients, one micro-batch
// after another: tokens are weighted alike however the batch is cut, over ranks too (each takes its share of the
// batch). Returns the mean loss as a scalar on the device.
Tensor forward_backward(const models::Model& model, models::Pass& pass, const Dataset& data, int64_t step,
                        const configs::TrainConfig& config, const Optimizer& optimizer, DataParallel& parallel);
// The same for one process, from a batch that lies on the device, of which `scored` targets count.
Tensor forward_backward(const models::Model& model, const models::Pass& pass, const std::vector<MicroBatch>& batches,
                        int64_t scored, const Optimizer& optimizer);
// ... or whose token_scale(scored) lies on the device too: [], in loss_dtype.
Tensor forward_backward(const models::Model& model, const models::Pass& pass, const std::vector<MicroBatch>& batches,
                        const Tensor& scale, const Optimizer& optimizer);
core::DType loss_dtype(const models::Pass& pass);
double token_scale(int64_t scored);  // what the sum of the losses is multiplied by

struct EvalResult {
  double loss = 0;      // nats per token
  double accuracy = 0;  // share of the tokens that were the likeliest of all
  int64_t tokens = 0;   // that counted
};
// The batches are dealt out to the ranks of `comm`; every rank gets the whole result.
EvalResult evaluate(const models::Model& model, const EvalDataset& data, core::DType compute, Communicator& comm,
                    const models::WeightCopies* copies = nullptr, const models::MixObserver* observe = nullptr);
inline EvalResult evaluate(const models::Model& model, const EvalDataset& data, core::DType compute,
                           const models::MixObserver* observe = nullptr) {
  return evaluate(model, data, compute, *null_communicator(), nullptr, observe);
}

}  // namespace basis::trainers
