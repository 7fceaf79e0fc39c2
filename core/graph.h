// A step of device work recorded once and replayed as one CUDA graph. Only where CUDA is built in.
//
// Memory: a block that the recorded work touches must keep its address for as long as the graph is replayed. Run the
// step once before capturing, so that the arena serves the capture from its cache; keep inputs and outputs in tensors
// that outlive the graph; call neither empty_cache nor other work on the device between replays whose tensors could
// take the recorded blocks, unless those blocks need not survive a replay (then stream order keeps both right).
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
  int index_ = 0;
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
  int index_;
  void* stream_;
  bool open_ = true;
};

}  // namespace basis::core
