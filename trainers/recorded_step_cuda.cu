// Recording a training step with core's CUDA graphs.
#include "core/graph.h"
#include "trainers/recorded_step.h"

namespace basis::trainers {
namespace {

std::function<void()> record(core::Device device, const std::function<void()>& work) {
  core::CaptureGuard guard(device);
  work();
  auto graph = std::make_shared<core::Graph>(guard.finish());
  return [graph] { graph->replay(); };
}

[[maybe_unused]] const bool registered = (graph_recorder() = record, true);

}  // namespace
}  // namespace basis::trainers
