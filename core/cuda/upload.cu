// Two slots take turns. Each holds page-locked memory and as much on the device; a transfer fills the slot on the copy
// stream while the compute stream works, and the compute stream then moves it to its place within the device.
#include "core/upload.h"

#include <cstring>

#include "core/cuda/launch.cuh"

namespace basis::core {
namespace {

constexpr size_t kAlign = 256;  // bytes between items

struct Slot {
  void* host = nullptr;
  Tensor device;
  cudaEvent_t copied = nullptr, consumed = nullptr;
};

class CudaUploader : public Uploader {
 public:
  explicit CudaUploader(Device device) : device_(device) {
    cuda_stream(device_);  // makes the device current
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (Slot& s : slots_)
      for (cudaEvent_t* e : {&s.copied, &s.consumed}) CUDA_CHECK(cudaEventCreateWithFlags(e, cudaEventDisableTiming));
  }
  ~CudaUploader() override {  // nothing to be done about errors here
    (void)cudaStreamSynchronize(stream_);
    for (Slot& s : slots_) {
      (void)cudaEventDestroy(s.copied), (void)cudaEventDestroy(s.consumed);
      (void)cudaFreeHost(s.host);
    }
    (void)cudaStreamDestroy(stream_);
  }

  void operator()(const std::vector<Item>& items) override {
    cudaStream_t compute = cuda_stream(device_);
    Slot& s = slots_[turn_++ % 2];
    size_t bytes = 0;
    for (const Item& item : items) bytes += padded(item);
    CUDA_CHECK(cudaEventSynchronize(s.copied));  // the slot's host memory has been read
    if (!s.device || size_t(s.device.numel()) < bytes) grow(s, bytes);
    size_t at = 0;
    for (const Item& item : items) {
      std::memcpy(static_cast<char*>(s.host) + at, item.host, size_t(item.to.bytes()));
      at += padded(item);
    }
    CUDA_CHECK(cudaStreamWaitEvent(stream_, s.consumed));
    CUDA_CHECK(cudaMemcpyAsync(s.device.raw(), s.host, bytes, cudaMemcpyHostToDevice, stream_));
    CUDA_CHECK(cudaEventRecord(s.copied, stream_));
    CUDA_CHECK(cudaStreamWaitEvent(compute, s.copied));
    at = 0;
    for (const Item& item : items) {
      CUDA_CHECK(cudaMemcpyAsync(item.to.raw(), static_cast<char*>(s.device.raw()) + at, size_t(item.to.bytes()),
                                 cudaMemcpyDeviceToDevice, compute));
      at += padded(item);
    }
    CUDA_CHECK(cudaEventRecord(s.consumed, compute));
  }

 private:
  static size_t padded(const Item& item) { return (size_t(item.to.bytes()) + kAlign - 1) / kAlign * kAlign; }

  void grow(Slot& s, size_t bytes) {
    synchronize(device_);
    CUDA_CHECK(cudaFreeHost(s.host));
    s.host = nullptr;
    CUDA_CHECK(cudaMallocHost(&s.host, bytes));
    s.device = Tensor::empty({int64_t(bytes)}, DType::u8, device_);
    // The block may have been used by work on the compute stream, which the copy stream must not overtake.
    CUDA_CHECK(cudaEventRecord(s.consumed, cuda_stream(device_)));
  }

  Device device_;
  cudaStream_t stream_ = nullptr;
  Slot slots_[2];
  unsigned turn_ = 0;
};

[[maybe_unused]] const bool registered = (
    make_uploader() = [](Device d) -> std::unique_ptr<Uploader> { return std::make_unique<CudaUploader>(d); }, true);

}  // namespace
}  // namespace basis::core
