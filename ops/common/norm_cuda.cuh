// Layer and RMS normalisation share these kernels: RMS normalisation is the one without mean and bias. One block per
// row forward; backward gives each block a range of rows, whose weight gradients it keeps in shared memory and writes
// once, and a second kernel adds the blocks in order: the same bits every run.
#pragma once

#include "core/cuda/launch.cuh"

namespace basis::ops::norm {

using namespace core;
inline constexpr int kThreads = 256;
inline constexpr int64_t kBlocks = 132 * 2;

template <class T>
T* pointer(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

template <class T, bool Rms>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* x, const T* residual, const T* weight, const T* bias, Accumulator<T> eps, T* y, T* sum,
                   Accumulator<T>* mean, Accumulator<T>* rstd, int64_t c) {
  using A = Accumulator<T>;
  int64_t row = blockIdx.x, at = row * c;
  auto value = [&](int64_t j) { return residual ? widen(sum[at + j]) : widen(x[at + j]); };
  A total = 0;
  for (int64_t j = threadIdx.x; j < c; j += kThreads) {
    if (residual) sum[at + j] = device_convert<T>(widen(x[at + j]) + widen(residual[at + j]));
    total += value(j);  // a thread reads back only what it wrote itself
  }
  A mu = 0;
  if constexpr (!Rms) mu = block_reduce<Sum, kThreads>(total) / A(c);
  A squares = 0;
  for (int64_t j = threadIdx.x; j < c; j += kThreads) {
    A d = value(j) - mu;
    squares += d * d;
  }
  A inverse = 1 / sqrt(block_reduce<Sum, kThreads>(squares) / A(c) + eps);
  if (threadIdx.x == 0) {
    if constexpr (!Rms) mean[row] = mu;
    rstd[row] = inverse;
  }
  for (int64_t j = threadIdx.x; j < c; j += kThreads)
    y[at + j] = device_convert<T>((value(j) - mu) * inverse * widen(weight[j]) + (bias ? widen(bias[j]) : A(0)));
}

// partials [gridDim.x, 2, c] or null.
template <class T, bool Rms>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* x, const T* weight, const Accumulator<T>* mean, const Accumulator<T>* rstd, const T* dy,
                    const T* dsum, T* dx, Accumulator<T>* partials, int64_t n, int64_t c) {
  using A = Accumulator<T>;
  extern __shared__ double shared_memory[];
  A *dw = reinterpret_cast<A*>(shared_memory), *db = dw + c;
  if (partials)
    for (int64_t j = threadIdx.x; j < c; j += kThreads) dw[j] = db[j] = 0;  // each thread uses its own columns only
  for (int64_t row = blockIdx.x; row < n; row += gridDim.x) {
    int64_t at = row * c;
    A mu = 0, inverse = rstd[row], g_sum = 0, gx_sum = 0;
    if constexpr (!Rms) mu = mean[row];
    for (int64_t j = threadIdx.x; j < c; j += kThreads) {
      A d = widen(dy[at + j]), g = d * widen(weight[j]), h = (widen(x[at + j]) - mu) * inverse;
      g_sum += g, gx_sum += g * h;
      if (partials) dw[j] += d * h, db[j] += d;
    }
    if constexpr (!Rms) g_sum = block_reduce<Sum, kThreads>(g_sum) / A(c);
    gx_sum = block_reduce<Sum, kThreads>(gx_sum) / A(c);
    for (int64_t j = threadIdx.x; j < c; j += kThreads) {
      A g = widen(dy[at + j]) * widen(weight[j]), h = (widen(x[at + j]) - mu) * inverse;
      A d = inverse * (g - (Rms ? A(0) : g_sum) - h * gx_sum);
      dx[at + j] = device_convert<T>(d + (dsum ? widen(dsum[at + j]) : A(0)));
    }
  }
  if (partials)
    for (int64_t j = threadIdx.x; j < c; j += kThreads) {
      partials[(int64_t(blockIdx.x) * 2) * c + j] = dw[j];
      partials[(int64_t(blockIdx.x) * 2 + 1) * c + j] = db[j];
    }
}

template <class T>
__global__ void finish_kernel(const Accumulator<T>* partials, int64_t blocks, int64_t c, T* dweight, T* dbias) {
  grid_stride(c, [&](int64_t j) {
    Accumulator<T> w = 0, b = 0;
    for (int64_t i = 0; i < blocks; ++i) w += partials[2 * i * c + j], b += partials[(2 * i + 1) * c + j];
    if (dweight) dweight[j] = device_convert<T>(w);
    if (dbias) dbias[j] = device_convert<T>(b);
  });
}

template <class T, bool Rms>
void forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, double eps,
             const Tensor& y, const Tensor& sum, const Tensor& mean, const Tensor& rstd) {
  using A = Accumulator<T>;
  launch(forward_kernel<T, Rms>, x.device(), x.size(0), kThreads, x.data<T>(), pointer<T>(residual), weight.data<T>(),
         pointer<T>(bias), A(eps), y.data<T>(), pointer<T>(sum), pointer<A>(mean), rstd.data<A>(), x.size(1));
}

template <class T, bool Rms>
void backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dy,
              const Tensor& dsum, const Tensor& dx, const Tensor& dweight, const Tensor& dbias) {
  using A = Accumulator<T>;
  int64_t n = x.size(0), c = x.size(1), blocks = std::max<int64_t>(1, std::min<int64_t>(n, kBlocks));
  bool wanted = dweight.defined() || dbias.defined();
  Tensor partials;
  if (wanted) partials = Tensor::empty({blocks, 2, c}, dtype_of<A>(), x.device());
  launch_shared(backward_kernel<T, Rms>, x.device(), dim3(unsigned(blocks)), kThreads,
                wanted ? size_t(2 * c) * sizeof(A) : 0, x.data<T>(), weight.data<T>(), pointer<A>(mean), rstd.data<A>(),
                dy.data<T>(), pointer<T>(dsum), dx.data<T>(), pointer<A>(partials), n, c);
  if (wanted)
    launch(finish_kernel<T>, x.device(), ceil_div(c, kThreads), kThreads, partials.data<A>(), blocks, c,
           pointer<T>(dweight), pointer<T>(dbias));
}

}  // namespace basis::ops::norm
