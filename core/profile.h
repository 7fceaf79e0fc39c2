// Which kernels ran on a device during some work, and for how long.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/device.h"

namespace basis::core {

struct KernelTime {
  std::string name;    // demangled; "copy" and "fill" for the driver's own
  double seconds = 0;  // of all its launches
  int64_t launches = 0;
  double idle = 0;  // seconds before its launches in which nothing ran
};

// Runs `work`, waits for the device, and says what ran, longest first. Measuring slows the host, not the kernels.
using KernelProfiler = std::vector<KernelTime> (*)(Device device, const std::function<void()>& work);

// nullptr where nothing is built in that can tell (CUPTI).
inline KernelProfiler& kernel_profiler() {
  static KernelProfiler profiler = nullptr;
  return profiler;
}

}  // namespace basis::core
