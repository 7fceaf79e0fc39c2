// CUDA streams, without CUDA's headers. Every device has one compute stream; all threads of the process submit to it,
// so the arena may reuse a block as soon as it is freed.
#pragma once

namespace basis::core {

// A cudaStream_t. Not owned.
struct Stream {
  void* handle = nullptr;
};

// The stream that this thread's work on CUDA device `index` goes to: the device's compute stream, unless a StreamGuard
// replaced it. Throws core::Error when the device cannot be used. Only where CUDA is built in.
Stream current_stream(int index);

// Within its scope, this thread's work on device `index` goes to `stream`. The caller orders the two streams, and keeps
// tensors that cross between them alive until both are done.
class StreamGuard {
 public:
  StreamGuard(int index, Stream stream);
  ~StreamGuard();
  StreamGuard(const StreamGuard&) = delete;

 private:
  int index_;
  void* previous_;
};

}  // namespace basis::core
