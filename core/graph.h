// A step of device work recorded once and replayed as one CUDA graph. Only where CUDA is built in.
//
// Memory: what the recorded work allocates comes from a pool that the graph keeps until it is destroyed (core/arena.h),
// so other tensors never share those addresses. Tensors made before the recording must outlive the graph. Results are
// read after a replay and before the next one.
#pragma once

#include "core/device.h"

namespace basis::core {

class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;

  bool ready() const { return executable_ != nullptr; }
  // Submits the recorded work to the device's current stream; does not wait.
  void replay() const;

 private:
  friend class CaptureGuard;
  int index_ = 0, pool_ = 0;
  void* executable_ = nullptr;  // cudaGraphExec_t
};

// Records what this thread submits to the device's current stream between construction and finish(). Leaving the scope
// without finish() (an exception) discards the recording. Nothing in between may wait for the device or copy to the
// host: such a call throws core::Error.
class CaptureGuard {
 public:
  explicit CaptureGuard(Device device);
  ~CaptureGuard();
  CaptureGuard(const CaptureGuard&) = delete;
  Graph finish();

 private:
  void discard_pool();
  int index_, pool_;
  void* stream_;
  bool open_ = true;
};

}  // namespace basis::core
