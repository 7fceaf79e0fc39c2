// The optimizer on the device: norms in two fixed stages, updates in one pass. Nothing waits for the host.
#include "core/cuda/launch.cuh"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {
namespace {

using namespace core;
constexpr int kThreads = 256;
constexpr int64_t kBlocks = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) squares(const T* x, int64_t n, double* partial) {
  double sum = 0;
  grid_stride(n, [&](int64_t i) { sum += double(x[i]) * double(x[i]); });
  sum = block_reduce<Sum, kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_partials(const double* partial, int64_t n, double* scalars) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += partial[i];
  sum = block_reduce<Sum, kThreads>(sum);
  if (threadIdx.x == 0) scalars[kSquaredNorm] += sum;
}

template <class T>
void squared_norm(const Tensor& x, const Tensor& scalars) {
  int64_t blocks = std::min(kBlocks, ceil_div(x.numel(), kThreads));
  if (blocks == 0) return;
  Tensor partial = Tensor::empty({blocks}, DType::f64, x.device());
  launch(squares<T>, x.device(), blocks, kThreads, x.data<T>(), x.numel(), partial.data<double>());
  launch(add_partials, x.device(), 1, kThreads, partial.data<double>(), blocks, scalars.data<double>());
}

__global__ void finish_kernel(double* s, bool dynamic_loss_scale) {
  double norm = sqrt(s[kSquaredNorm]) / s[kLossScale];
  bool finite = isfinite(norm);
  s[kNorm] = norm;
  s[kSkip] = finite ? 0 : 1;
  s[kFactor] = (s[kMaxNorm] > 0 ? fmin(1.0, s[kMaxNorm] / (norm + 1e-6)) : 1.0) / s[kLossScale];
  s[kTime] += finite;
  if (!dynamic_loss_scale) return;
  s[kGoodSteps] = finite ? s[kGoodSteps] + 1 : 0;
  if (!finite) {
    s[kLossScale] = fmax(1.0, s[kLossScale] / 2);
  } else if (s[kGoodSteps] >= 2000) {
    s[kLossScale] *= 2;
    s[kGoodSteps] = 0;
  }
}

void finish(const Tensor& scalars, bool dynamic_loss_scale) {
  launch(finish_kernel, scalars.device(), 1, 1, scalars.data<double>(), dynamic_loss_scale);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(Hyper h, const double* s, int64_t n, T* p, const T* g, T* m, T* v) {
  if (s[kSkip] != 0) return;
  __shared__ T shared[3];  // the powers once a block, in f64
  if (threadIdx.x == 0) {
    double lr = s[kLearningRate] * h.lr_scale;
    shared[0] = T(1 - lr * h.weight_decay);
    shared[1] = T(lr / (1 - pow(h.beta1, s[kTime])));
    shared[2] = T(1 / sqrt(1 - pow(h.beta2, s[kTime])));
  }
  __syncthreads();
  T decay = shared[0], rate = shared[1], root = shared[2], factor = T(s[kFactor]);
  T b1 = T(h.beta1), b2 = T(h.beta2), c1 = T(1 - h.beta1), c2 = T(1 - h.beta2), eps = T(h.eps);
  grid_stride(n, [&](int64_t i) {
    T x = g[i] * factor, first = b1 * m[i] + c1 * x, second = b2 * v[i] + c2 * x * x;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * decay - rate * first / (sqrt(second) * root + eps);
  });
}

template <class T>
void adamw(const Hyper& h, const Tensor& scalars, const Tensor& p, const Tensor& g, const Tensor& m, const Tensor& v) {
  launch(adamw_kernel<T>, p.device(), grid_for(p.numel(), kThreads), kThreads, h, scalars.data<double>(), p.numel(),
         p.data<T>(), g.data<T>(), m.data<T>(), v.data<T>());
}

template <class T>
__global__ void __launch_bounds__(kThreads) sgd_kernel(Hyper h, const double* s, int64_t n, T* p, const T* g, T* m) {
  if (s[kSkip] != 0) return;
  double lr = s[kLearningRate] * h.lr_scale;
  T mu = T(h.momentum), rate = T(lr), decay = T(1 - lr * h.weight_decay);
  T factor = T(s[kFactor]);
  grid_stride(n, [&](int64_t i) {
    T velocity = mu * m[i] + g[i] * factor;
    m[i] = velocity;
    p[i] = p[i] * decay - rate * velocity;
  });
}

template <class T>
void sgd(const Hyper& h, const Tensor& scalars, const Tensor& p, const Tensor& g, const Tensor& m) {
  launch(sgd_kernel<T>, p.device(), grid_for(p.numel(), kThreads), kThreads, h, scalars.data<double>(), p.numel(),
         p.data<T>(), g.data<T>(), m.data<T>());
}

REGISTER_KERNEL(add_squared_norm, cuda, f32, squared_norm<float>)
REGISTER_KERNEL(add_squared_norm, cuda, f64, squared_norm<double>)
REGISTER_KERNEL(finish_norm, cuda, f64, finish)
REGISTER_KERNEL(adamw_update, cuda, f32, adamw<float>)
REGISTER_KERNEL(adamw_update, cuda, f64, adamw<double>)
REGISTER_KERNEL(sgd_update, cuda, f32, sgd<float>)
REGISTER_KERNEL(sgd_update, cuda, f64, sgd<double>)

}  // namespace
}  // namespace basis::trainers
