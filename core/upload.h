// Host data brought to a device while the device still works on what came before: through page-locked memory and a
// stream of its own, so that neither the host nor the work already submitted waits for the transfer.
#pragma once

#include <memory>
#include <vector>

#include "core/tensor.h"

namespace basis::core {

class Uploader {
 public:
  struct Item {
    const void* host;  // to.bytes() of them; may be reused once the call returns
    Tensor to;         // contiguous, on the device
  };
  virtual ~Uploader() = default;
  // What is submitted to the device's compute stream from now on sees the new values, what was submitted before the
  // old.
  virtual void operator()(const std::vector<Item>& items) = 0;
};

// nullptr where CUDA is not built in.
using MakeUploader = std::unique_ptr<Uploader> (*)(Device);
inline MakeUploader& make_uploader() {
  static MakeUploader make = nullptr;
  return make;
}

}  // namespace basis::core
