// Real transforms through cuFFT, one strided batched plan per (N, C), kept for the life of the process.
#include <map>
#include <mutex>
#include <tuple>

#include "core/cuda/launch.cuh"
#include "core/fft/fft.h"

namespace basis::core {
namespace {

cufftHandle plan_of(int64_t n, int64_t c, cufftType type, Device device) {
  static std::mutex mutex;
  static auto* plans = new std::map<std::tuple<int, int64_t, int64_t, int>, cufftHandle>;  // leaked: see gemm_cuda.cu
  std::lock_guard lock(mutex);
  auto [it, added] = plans->try_emplace({device.index, n, c, int(type)});
  if (added) {
    cuda_stream(device);  // makes the device current
    int size = int(n);
    CUDA_CHECK(cufftPlanMany(&it->second, 1, &size, &size, int(c), 1, &size, int(c), 1, type, int(c)));
  }
  CUDA_CHECK(cufftSetStream(it->second, cuda_stream(device)));
  return it->second;
}

__global__ void scale_kernel(float* x, int64_t n, float by) {
  grid_stride(n, [&](int64_t i) { x[i] *= by; });
}

// One point is its own transform; cuFFT would refuse the alignment of its rows.
__global__ void one_point_kernel(const float* from, int from_stride, float* to, int to_stride, int64_t n) {
  grid_stride(n, [&](int64_t i) {
    to[i * to_stride] = from[i * from_stride];
    if (to_stride == 2) to[i * 2 + 1] = 0;
  });
}

void rfft_cuda(const Tensor& x, const Tensor& spectrum) {
  if (x.size(-2) == 1)
    return launch(one_point_kernel, x.device(), grid_for(x.numel(), 256), 256, x.data<float>(), 1,
                  spectrum.data<float>(), 2, x.numel());
  int64_t n = x.size(-2), c = x.size(-1), batch = x.numel() / (n * c);
  cufftHandle plan = plan_of(n, c, CUFFT_R2C, x.device());
  for (int64_t b = 0; b < batch; ++b)
    CUDA_CHECK(cufftExecR2C(plan, x.data<float>() + b * n * c,
                            reinterpret_cast<cufftComplex*>(spectrum.data<float>()) + b * (n / 2 + 1) * c));
}

void irfft_cuda(const Tensor& spectrum, const Tensor& x) {
  if (x.size(-2) == 1)
    return launch(one_point_kernel, x.device(), grid_for(x.numel(), 256), 256, spectrum.data<float>(), 2,
                  x.data<float>(), 1, x.numel());
  int64_t n = x.size(-2), c = x.size(-1), batch = x.numel() / (n * c);
  cufftHandle plan = plan_of(n, c, CUFFT_C2R, x.device());
  Tensor scratch = spectrum.clone();  // cuFFT may write over what it reads
  for (int64_t b = 0; b < batch; ++b)
    CUDA_CHECK(cufftExecC2R(plan, reinterpret_cast<cufftComplex*>(scratch.data<float>()) + b * (n / 2 + 1) * c,
                            x.data<float>() + b * n * c));
  launch(scale_kernel, x.device(), grid_for(x.numel(), 256), 256, x.data<float>(), x.numel(), 1.0f / float(n));
}

REGISTER_KERNEL(rfft_kernel, cuda, f32, rfft_cuda)
REGISTER_KERNEL(irfft_kernel, cuda, f32, irfft_cuda)

}  // namespace
}  // namespace basis::core
