#include "core/cuda/launch.cuh"
#include "ops/toeplitz/toeplitz.h"

namespace basis::ops {
namespace {

using namespace core;

__global__ void product_kernel(const float2* a, const float2* x, float sign, float2* out, int64_t n, int64_t c) {
  grid_stride(n, [&](int64_t i) {
    float2 p = a[i / c], v = x[i];
    p.y *= sign;
    out[i] = {p.x * v.x - p.y * v.y, p.x * v.y + p.y * v.x};
  });
}

// A block per frequency.
__global__ void dot_kernel(const float2* x, const float2* y, float2* out, int64_t c) {
  float re = 0, im = 0;
  for (int64_t j = threadIdx.x; j < c; j += blockDim.x) {
    float2 p = x[blockIdx.x * c + j], q = y[blockIdx.x * c + j];
    re += p.x * q.x + p.y * q.y, im += p.x * q.y - p.y * q.x;
  }
  re = block_reduce<Sum, 64>(re), im = block_reduce<Sum, 64>(im);
  if (threadIdx.x == 0) out[blockIdx.x] = {re, im};
}

float2* complex(const Tensor& t) { return reinterpret_cast<float2*>(t.data<float>()); }

void product(const Tensor& a, const Tensor& x, bool conjugated, const Tensor& out) {
  int64_t n = x.numel() / 2;
  launch(product_kernel, x.device(), grid_for(n, 256), 256, complex(a), complex(x), conjugated ? -1.0f : 1.0f,
         complex(out), n, x.size(1));
}
void dot(const Tensor& x, const Tensor& y, const Tensor& out) {
  launch(dot_kernel, x.device(), x.size(0), 64, complex(x), complex(y), complex(out), x.size(1));
}

REGISTER_KERNEL(spectrum_product, cuda, f32, product)
REGISTER_KERNEL(spectrum_dot, cuda, f32, dot)

}  // namespace
}  // namespace basis::ops
