// The CUDA backend: memory, copies and one compute stream per device.
#include <array>
#include <mutex>

#include "core/cuda/check.h"
#include "core/device.h"
#include "core/stream.h"

namespace basis::core {
namespace {

constexpr int kMaxDevices = 64;

int device_count_cuda() {  // asked once: a driver does not come or go
  static const int count = [] {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
      (void)cudaGetLastError();  // no driver or no device: not an error of later calls
      return 0;
    }
    return n < kMaxDevices ? n : kMaxDevices;
  }();
  return count;
}

thread_local std::array<cudaStream_t, kMaxDevices> override_stream{};

void make_current(int index) {
  if (index < 0 || index >= device_count_cuda())
    throw Error({.where = "cuda:" + std::to_string(index),
                 .expected = "one of " + std::to_string(device_count_cuda()) + " CUDA devices",
                 .remedy = "use run.device: cpu, or look at nvidia-smi",
                 .code = ExitCode::usage});
  CUDA_CHECK(cudaSetDevice(index));
}

cudaStream_t compute_stream(int index) {
  static std::array<cudaStream_t, kMaxDevices> streams{};
  static std::array<std::once_flag, kMaxDevices> once;
  std::call_once(once[size_t(index)],
                 [&] { CUDA_CHECK(cudaStreamCreateWithFlags(&streams[size_t(index)], cudaStreamNonBlocking)); });
  return streams[size_t(index)];
}

cudaStream_t stream_of(int index) {
  make_current(index);
  cudaStream_t replaced = override_stream[size_t(index)];
  return replaced ? replaced : compute_stream(index);
}

void* allocate_cuda(int index, size_t bytes) {
  make_current(index);
  void* p = nullptr;
  // A capture on this thread must not forbid taking memory; the block's address is what the graph records.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  CUDA_CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
  cudaError_t status = cudaMalloc(&p, bytes);
  if (status != cudaSuccess) (void)cudaGetLastError();  // out of memory is not sticky: the arena tries again
  CUDA_CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
  CUDA_CHECK(status);
  return p;
}

void release_cuda(int index, void* p, size_t) {
  if (cudaSetDevice(index) != cudaSuccess || cudaFree(p) != cudaSuccess) (void)cudaGetLastError();
}

void copy_cuda(Device to, void* dst, Device from, const void* src, size_t bytes) {
  if (bytes == 0) return;
  if (to.is_cuda() && from.is_cuda()) {
    if (to.index == from.index) {
      CUDA_CHECK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream_of(to.index)));
      return;
    }
    // Peers: the copy waits for the source's stream, and the source's later work for the copy.
    cudaEvent_t produced, copied;
    cudaStream_t source = stream_of(from.index);
    CUDA_CHECK(cudaEventCreateWithFlags(&produced, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventRecord(produced, source));
    cudaStream_t target = stream_of(to.index);
    CUDA_CHECK(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
    CUDA_CHECK(cudaStreamWaitEvent(target, produced));
    CUDA_CHECK(cudaMemcpyPeerAsync(dst, to.index, src, from.index, bytes, target));
    CUDA_CHECK(cudaEventRecord(copied, target));
    CUDA_CHECK(cudaSetDevice(from.index));
    CUDA_CHECK(cudaStreamWaitEvent(source, copied));
    CUDA_CHECK(cudaEventDestroy(produced));
    CUDA_CHECK(cudaEventDestroy(copied));
    return;
  }
  if (to.is_cuda()) {
    // Pageable source: CUDA stages it before the call returns, so the caller may reuse its memory at once.
    CUDA_CHECK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, stream_of(to.index)));
    return;
  }
  cudaStream_t stream = stream_of(from.index);
  CUDA_CHECK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
}

void fill_bytes_cuda(int index, void* dst, int byte, size_t bytes) {
  if (bytes) CUDA_CHECK(cudaMemsetAsync(dst, byte, bytes, stream_of(index)));
}

double time_cuda(int index, const std::function<void()>& work) {
  cudaStream_t stream = stream_of(index);
  cudaEvent_t begin, end;
  CUDA_CHECK(cudaEventCreate(&begin));
  CUDA_CHECK(cudaEventCreate(&end));
  CUDA_CHECK(cudaEventRecord(begin, stream));
  work();
  CUDA_CHECK(cudaEventRecord(end, stream));
  CUDA_CHECK(cudaEventSynchronize(end));
  float ms = 0;
  CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return ms * 1e-3;
}
void synchronize_cuda(int index) { CUDA_CHECK(cudaStreamSynchronize(stream_of(index))); }

size_t total_memory_cuda(int index) {
  make_current(index);
  size_t available = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&available, &total));
  return total;
}

std::string describe_cuda(int index) {
  make_current(index);
  cudaDeviceProp p;
  CUDA_CHECK(cudaGetDeviceProperties(&p, index));
  int driver = 0;
  CUDA_CHECK(cudaDriverGetVersion(&driver));
  return std::string(p.name) + ", sm_" + std::to_string(p.major) + std::to_string(p.minor) + ", " +
         std::to_string(p.totalGlobalMem >> 20) + " MiB, " + std::to_string(p.multiProcessorCount) +
         " multiprocessors, driver for CUDA " + std::to_string(driver / 1000) + "." +
         std::to_string(driver % 1000 / 10);
}

[[maybe_unused]] const bool registered = set_backend(DeviceType::cuda, {.count = device_count_cuda,
                                                                        .allocate = allocate_cuda,
                                                                        .release = release_cuda,
                                                                        .copy = copy_cuda,
                                                                        .fill_bytes = fill_bytes_cuda,
                                                                        .synchronize = synchronize_cuda,
                                                                        .time = time_cuda,
                                                                        .total_memory = total_memory_cuda,
                                                                        .describe = describe_cuda});

}  // namespace

Stream current_stream(int index) { return {stream_of(index)}; }

StreamGuard::StreamGuard(int index, Stream stream) : index_(index) {
  make_current(index);
  previous_ = override_stream[size_t(index)];
  override_stream[size_t(index)] = static_cast<cudaStream_t>(stream.handle);
}
StreamGuard::~StreamGuard() { override_stream[size_t(index_)] = static_cast<cudaStream_t>(previous_); }

}  // namespace basis::core
