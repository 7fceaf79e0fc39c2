// Check (9) of gradcheck on CUDA devices.
#include "autograd/capture.h"
#include "core/graph.h"

namespace basis::autograd {
namespace {

void capture_and_replay(core::Device device, const std::function<void()>& work) {
  core::CaptureGuard guard(device);
  work();
  core::Graph graph = guard.finish();
  graph.replay();
  core::synchronize(device);
}

[[maybe_unused]] const bool registered = set_capture_service(core::DeviceType::cuda, capture_and_replay);

}  // namespace
}  // namespace basis::autograd
