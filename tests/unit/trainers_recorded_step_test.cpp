// A replayed step against the same step submitted anew. On the CPU "recording" keeps the work and runs it at each
// replay, which tests what the host does around a graph; on a GPU the graph itself is tested.
#include <gtest/gtest.h>

#include "trainers/recorded_step.h"

namespace basis::trainers {
namespace {

int recordings = 0;

std::function<void()> keep(core::Device, const std::function<void()>& work) {
  ++recordings;
  return work;
}

configs::Config tiny() {
  configs::Config c;
  c.model.n_layer = 2, c.model.n_head = 2, c.model.d_model = 16, c.model.vocab_size = 23, c.model.max_seq_len = 8;
  c.model.dropout = 0;
  return c;
}

// Two micro-batches of step `step`; every third position is scored in a masked one, one more at odd steps.
StepBatch batch_of(int step, bool masked) {
  core::HostRandom random(7, uint64_t(step));
  StepBatch all;
  for (int m = 0; m < 2; ++m) {
    Batch b{.inputs = {}, .targets = {}, .batch = 2, .seq_len = 8, .scored = 0};
    for (int i = 0; i < 16; ++i) {
      b.inputs.push_back(int32_t(random.bits() % 23));
      bool scored = !masked || i % 3 == 0 || (i == 1 && step % 2);
      b.targets.push_back(scored ? int32_t(random.bits() % 23) : kIgnore);
      b.scored += scored;
    }
    all.scored += b.scored;
    all.micro.push_back(b);
  }
  return all;
}

class RecordedSteps : public testing::Test {
 protected:
  RecordedSteps() : before_(graph_recorder()) { recordings = 0; }
  ~RecordedSteps() override { graph_recorder() = before_; }

  // Losses of ten steps, then all parameters.
  static std::vector<double> train(const configs::Config& c, core::Device device, bool record, bool masked = false) {
    auto model = models::make_model(c.model);
    model->initialize(3, device, core::DType::f32);
    Optimizer optimizer(c.optimizer, model->parameters(), false);
    RecordedStep recorded(*model, optimizer, c.train.cuda_graph == "true");
    core::Generator random(1);
    std::vector<double> result;
    for (int step = 0; step < 10; ++step) {
      random.begin_step(uint64_t(step));
      models::Pass pass{.training = true, .compute = core::parse_dtype(c.train.precision), .random = &random};
      StepBatch batch = batch_of(step, masked);
      optimizer.set_rates(1e-2 / (step + 1), 1.0);
      Tensor loss;
      if (record) {
        loss = recorded.run(pass, batch);
      } else {
        std::vector<MicroBatch> micro;
        for (const Batch& b : batch.micro) micro.push_back(to_device(b, device));
        loss = forward_backward(*model, pass, micro, batch.scored, optimizer);
        optimizer.update();
      }
      result.push_back(loss.item());
    }
    for (const models::Parameter& p : model->parameters())
      for (float x : p.var.value().to_vector<float>()) result.push_back(x);
    return result;
  }

 private:
  GraphRecorder before_;
};

TEST_F(RecordedSteps, SameBitsAsStepsSubmittedAnew) {
  graph_recorder() = keep;
  EXPECT_EQ(train(tiny(), core::cpu, true), train(tiny(), core::cpu, false));
  EXPECT_EQ(recordings, 1);
}

TEST_F(RecordedSteps, AnotherNumberOfScoredTargetsIsReplayedToo) {
  graph_recorder() = keep;
  EXPECT_EQ(train(tiny(), core::cpu, true, true), train(tiny(), core::cpu, false, true));
  EXPECT_EQ(recordings, 1);
}

TEST_F(RecordedSteps, DropoutDrawsNewNumbersAtEachReplay) {
  graph_recorder() = keep;
  configs::Config c = tiny();
  c.model.dropout = 0.2;
  for (const char* mixer : {"naive", "fused"}) {
    c.model.attention.mixer.type = mixer;
    EXPECT_EQ(train(c, core::cpu, true), train(c, core::cpu, false)) << mixer;
  }
  EXPECT_EQ(recordings, 2);
}

TEST_F(RecordedSteps, GoesOnWithoutAGraphWhereRecordingFails) {
  graph_recorder() = [](core::Device, const std::function<void()>&) -> std::function<void()> {
    throw core::Error({.where = "graph", .expected = "no wait", .got = "one"});
  };
  EXPECT_EQ(train(tiny(), core::cpu, true), train(tiny(), core::cpu, false));
  configs::Config c = tiny();
  c.train.cuda_graph = "true";
  EXPECT_THROW(train(c, core::cpu, true), core::Error);
}

TEST_F(RecordedSteps, AskingForAGraphWithoutAGpuIsAnError) {
  configs::Config c = tiny();
  auto model = models::make_model(c.model);
  model->initialize(3, core::cpu, core::DType::f32);
  Optimizer optimizer(c.optimizer, model->parameters(), false);
  c.train.cuda_graph = "auto";
  EXPECT_EQ(make_recorded_step(*model, optimizer, c.train), nullptr);
  c.train.cuda_graph = "true";
  EXPECT_THROW(make_recorded_step(*model, optimizer, c.train), core::Error);
}

TEST_F(RecordedSteps, GpuGraphGivesTheSameBits) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  core::set_deterministic(true);
  configs::Config c = tiny();
  c.train.cuda_graph = "true";  // a step that cannot be recorded fails the test
  for (const char* precision : {"f32", "bf16"})
    for (const char* mixer : {"naive", "fused"})
      for (double dropout : {0.0, 0.2}) {
        c.train.precision = precision, c.model.attention.mixer.type = mixer, c.model.dropout = dropout;
        bool masked = dropout > 0;
        EXPECT_EQ(train(c, core::cuda(), true, masked), train(c, core::cuda(), false, masked))
            << precision << ' ' << mixer << ' ' << dropout;
      }
}

}  // namespace
}  // namespace basis::trainers
