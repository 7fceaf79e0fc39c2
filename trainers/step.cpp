#include "trainers/step.h"

#include <algorithm>

#include "core/basic/basic.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace basis::trainers {
namespace {

// The summed loss of one micro-batch, which `total` gathers.
models::Var add_loss(const models::Model& model, const models::Pass& pass, const MicroBatch& b, Tensor& total) {
  models::Var loss = model.loss(pass, b.inputs, b.targets, kIgnore, 1);
  if (total)
    core::axpy(1, loss.value(), total);
  else
    total = loss.value().clone();
  return loss;
}

// What backward starts from: the loss scale, and the step from a sum over tokens to their mean.
Tensor cotangent(const Optimizer& optimizer, const Tensor& scale) {
  Tensor c = optimizer.loss_cotangent(scale.dtype());
  Tensor out = c.empty_like();
  ops::scaled_by(c.device().type, c.dtype(), c, 1, scale, out);
  return out;
}

Tensor scale_of(int64_t scored, const models::Pass& pass, core::Device device) {
  return Tensor::full({}, token_scale(scored), loss_dtype(pass), device);
}

}  // namespace

core::DType loss_dtype(const models::Pass& pass) {
  return pass.compute == core::DType::f64 ? core::DType::f64 : core::DType::f32;
}

double token_scale(int64_t scored) { return 1.0 / double(std::max<int64_t>(1, scored)); }

core::Device choose_device(const std::string& name) {
  if (name == "cpu") return core::cpu;
  int gpus = core::device_count(core::DeviceType::cuda);
  if (gpus > 0) return core::cuda();
  if (name == "auto") return core::cpu;
  core::backend(core::DeviceType::cuda);  // says when CUDA is not built in
  throw core::Error({.where = "run.device",
                     .expected = "a GPU",
                     .got = "none that works",
                     .remedy = "see basis doctor, or run.device: cpu",
                     .code = core::ExitCode::usage});
}

StepBatch read_batch(const Dataset& data, int64_t step, const configs::TrainConfig& c) {
  int64_t size = c.micro_batch ? c.micro_batch : c.global_batch;
  StepBatch batch;
  for (int64_t first = 0; first < c.global_batch; first += size) {
    batch.micro.push_back(data.batch(step, first, size));
    batch.scored += batch.micro.back().scored;
  }
  return batch;
}

MicroBatch to_device(const Batch& b, core::Device device) {
  return {Tensor::from(b.inputs, {b.batch, b.seq_len}, device), Tensor::from(b.targets, {b.batch * b.seq_len}, device)};
}

Tensor forward_backward(const models::Model& model, const models::Pass& pass, const std::vector<MicroBatch>& batches,
                        const Tensor& scale, const Optimizer& optimizer) {
  Tensor total;
  for (const MicroBatch& b : batches) add_loss(model, pass, b, total).backward(cotangent(optimizer, scale));
  if (total) ops::scaled_by(total.device().type, total.dtype(), total, 1, scale, total);
  return total;
}

Tensor forward_backward(const models::Model& model, const models::Pass& pass, const std::vector<MicroBatch>& batches,
                        int64_t scored, const Optimizer& optimizer) {
  return forward_backward(model, pass, batches, scale_of(scored, pass, optimizer.scalars().device()), optimizer);
}

Tensor forward_backward(const models::Model& model, models::Pass& pass, const Dataset& data, int64_t step,
                        const configs::TrainConfig& c, const Optimizer& optimizer, DataParallel& parallel) {
  core::Device device = optimizer.scalars().device();
  int64_t micro = c.micro_batch ? c.micro_batch : c.global_batch;
  std::vector<Batch> batches;
  int64_t tokens = 0;
  auto [begin, end] = parallel.share(c.global_batch);
  for (int64_t first = begin; first < end; first += micro) {
    batches.push_back(data.batch(step, first, std::min(micro, end - first)));
    tokens += batches.back().scored;
  }
  tokens = int64_t(parallel.comm().agree({double(tokens)}, Reduce::sum)[0]);
  Tensor total, scale = scale_of(tokens, pass, device);
  for (const Batch& b : batches) {
    models::Var loss = add_loss(model, pass, to_device(b, device), total);
    if (&b == &batches.back()) parallel.begin_last_backward();
    loss.backward(cotangent(optimizer, scale));
  }
  if (total) ops::scaled_by(device.type, total.dtype(), total, 1, scale, total);
  parallel.finish_backward(total);
  return total;
}

EvalResult evaluate(const models::Model& model, const EvalDataset& data, core::DType compute, Communicator& comm,
                    const models::WeightCopies* copies, const models::MixObserver* observe) {
  autograd::NoGrad no_grad;
  models::Pass pass{.compute = compute, .copies = copies, .observe_mix = observe};
  core::Device device = model.parameters().at(0).var.device();
  EvalResult result;
  double sum = 0, hits = 0;
  for (int64_t i = comm.rank(); i < data.batches(); i += comm.size()) {
    Batch b = data.batch(i);
    MicroBatch on_device = to_device(b, device);
    ops::TargetScore score = model.score(pass, on_device.inputs, on_device.targets, kIgnore);
    sum += score.loss.item(), hits += score.hits.item();
    result.tokens += b.scored;
  }
  auto all = comm.agree({sum, double(result.tokens), hits}, Reduce::sum);
  result.tokens = int64_t(all[1]);
  if (result.tokens) result.loss = all[0] / all[1], result.accuracy = all[2] / all[1];
  return result;
}

}  // namespace basis::trainers
