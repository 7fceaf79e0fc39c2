// A training step recorded once as a CUDA graph and replayed: the host submits one launch instead of hundreds.
//
// What a graph holds by value must not change from step to step. The learning rate, the update's number and the loss
// scale lie on the device (optim/optimizer.h), and so does the number that the random streams of a step count from
// (core/rng.h) and the number of scored targets; the batch is copied into tensors that stay. A batch of another shape
// is run as if there were no graph.
#pragma once

#include <functional>
#include <memory>

#include "core/upload.h"
#include "trainers/step.h"

namespace basis::trainers {

// Records the device work that `work` submits, without running it; the result submits it. nullptr without CUDA.
using GraphRecorder = std::function<void()> (*)(core::Device, const std::function<void()>& work);
inline GraphRecorder& graph_recorder() {
  static GraphRecorder recorder = nullptr;
  return recorder;
}

class RecordedStep {
 public:
  // `required`: what cannot be recorded is an error, not a reason to go on without a graph. All must outlive this.
  RecordedStep(const models::Model& model, Optimizer& optimizer, bool required)
      : model_(model), optimizer_(optimizer), required_(required) {}

  // Forward, backward and update with the rates that the optimizer was given; the mean loss, a scalar on the device, to
  // be read before the next call. The first kWarmUp steps run unrecorded: libraries choose their kernels in them.
  // Throws core::Error (usage) when a graph is required and the step cannot be recorded.
  Tensor run(const models::Pass& pass, const StepBatch& batch);
  bool recorded() const { return bool(replay_); }

  static constexpr int kWarmUp = 3;

 private:
  Tensor eager(const models::Pass& pass, const StepBatch& batch);
  void bring(const StepBatch& batch);  // to the recorded step's input
  void record(const models::Pass& pass, const StepBatch& batch);
  void give_up(const std::string& reason);
  bool fits(const StepBatch& batch) const;

  const models::Model& model_;
  Optimizer& optimizer_;
  bool required_, given_up_ = false;
  int steps_ = 0;
  std::vector<MicroBatch> batch_;  // the recorded step's input
  Tensor scale_;                   // [], token_scale of the step's targets
  Tensor first_stream_;            // [1] i64 on the device: Generator::first_stream() of the step
  Tensor loss_;
  std::unique_ptr<core::Uploader> upload_;  // brings the next batch while the last step still runs
  std::function<void()> replay_;
};

// By train.cuda_graph; null when it is false, and for auto without a GPU. Throws core::Error (usage) for true without.
std::unique_ptr<RecordedStep> make_recorded_step(const models::Model& model, Optimizer& optimizer,
                                                 const configs::TrainConfig& config);

}  // namespace basis::trainers
