// Running recorded device work a second time as a graph (CUDA graphs). A device backend plugs the service in; where it
// is absent, the check that needs it is skipped and says so.
#pragma once

#include <functional>

#include "core/device.h"

namespace basis::autograd {

// Captures what `work` enqueues on the current stream of `device` without running it, launches the captured graph once
// and waits for it. `work` is called exactly once. The caller has run the same work before, so that the allocator holds
// the blocks it needs. Throws core::Error when the work cannot be captured (it synchronises, or allocates raw memory).
using CaptureAndReplay = void (*)(core::Device device, const std::function<void()>& work);

// The slot of a device type; nullptr where there is no service.
inline CaptureAndReplay& capture_service(core::DeviceType type) {
  static CaptureAndReplay services[core::kDeviceTypes] = {};
  return services[int(type)];
}

// Returns true so that it can initialise a static.
inline bool set_capture_service(core::DeviceType type, CaptureAndReplay f) {
  capture_service(type) = f;
  return true;
}

}  // namespace basis::autograd
