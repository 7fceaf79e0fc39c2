#include "trainers/recorded_step.h"

#include <cstring>

#include "core/basic/basic.h"
#include "core/log.h"

namespace basis::trainers {
namespace {

// Within its scope the generator's streams count from a number on the device.
class StreamsFromDevice {
 public:
  StreamsFromDevice(core::Generator* generator, const Tensor& first) : generator_(generator) {
    if (generator_) generator_->set_base(reinterpret_cast<const uint64_t*>(first.data<int64_t>()));
  }
  ~StreamsFromDevice() {
    if (generator_) generator_->set_base(nullptr);
  }
  StreamsFromDevice(const StreamsFromDevice&) = delete;

 private:
  core::Generator* generator_;
};

}  // namespace

Tensor RecordedStep::run(const models::Pass& pass, const StepBatch& batch) {
  if (!replay_ && !given_up_ && steps_ >= kWarmUp) record(pass, batch);
  ++steps_;
  if (!replay_ || !fits(batch)) return eager(pass, batch);
  bring(batch);
  core::fill(scale_, token_scale(batch.scored));
  if (pass.random) core::fill(first_stream_, double(pass.random->first_stream()));
  replay_();
  return loss_;
}

Tensor RecordedStep::eager(const models::Pass& pass, const StepBatch& batch) {
  std::vector<MicroBatch> micro;
  for (const Batch& b : batch.micro) micro.push_back(to_device(b, optimizer_.scalars().device()));
  Tensor loss = forward_backward(model_, pass, micro, batch.scored, optimizer_);
  optimizer_.update();
  return loss;
}

void RecordedStep::bring(const StepBatch& batch) {
  std::vector<core::Uploader::Item> items;
  for (size_t i = 0; i < batch_.size(); ++i) {
    items.push_back({batch.micro[i].inputs.data(), batch_[i].inputs});
    items.push_back({batch.micro[i].targets.data(), batch_[i].targets});
  }
  if (upload_) return (*upload_)(items);
  for (const auto& [host, to] : items)  // the CPU, in tests
    std::memcpy(to.raw(), host, size_t(to.bytes()));
}

void RecordedStep::record(const models::Pass& pass, const StepBatch& batch) {
  core::Device device = optimizer_.scalars().device();
  for (const Batch& b : batch.micro) batch_.push_back(to_device(b, device));
  scale_ = Tensor::zeros({}, loss_dtype(pass), device);
  first_stream_ = Tensor::zeros({1}, core::DType::i64, device);
  if (device.is_cuda() && core::make_uploader()) upload_ = core::make_uploader()(device);
  try {
    replay_ = graph_recorder()(device, [this, pass] {
      StreamsFromDevice streams(pass.random, first_stream_);
      loss_ = forward_backward(model_, pass, batch_, scale_, optimizer_);
      optimizer_.update();
    });
  } catch (const core::Error& e) {
    optimizer_.clear_gradients();  // they were never computed
    batch_.clear();
    loss_ = Tensor();
    give_up(e.what());
  }
}

void RecordedStep::give_up(const std::string& reason) {
  if (given_up_) return;
  given_up_ = true;
  if (required_)
    throw core::Error({.where = "train.cuda_graph",
                       .expected = "a step that can be recorded",
                       .got = reason,
                       .remedy = "train.cuda_graph: false",
                       .code = core::ExitCode::usage});
  core::log_info("the step is not recorded as a CUDA graph: {}", reason);
}

bool RecordedStep::fits(const StepBatch& b) const {
  bool same = b.micro.size() == batch_.size();
  for (size_t i = 0; same && i < batch_.size(); ++i)
    same = batch_[i].inputs.shape() == core::Shape{b.micro[i].batch, b.micro[i].seq_len};
  return same;
}

std::unique_ptr<RecordedStep> make_recorded_step(const models::Model& model, Optimizer& optimizer,
                                                 const configs::TrainConfig& c) {
  bool gpu = optimizer.scalars().device().is_cuda() && graph_recorder();
  if (c.cuda_graph == "true" && !gpu)
    throw core::Error({.where = "train.cuda_graph",
                       .expected = "a GPU",
                       .got = name_of(optimizer.scalars().device()),
                       .remedy = "train.cuda_graph: auto",
                       .code = core::ExitCode::usage});
  if (c.cuda_graph == "false" || !gpu) return nullptr;
  return std::make_unique<RecordedStep>(model, optimizer, c.cuda_graph == "true");
}

}  // namespace basis::trainers
