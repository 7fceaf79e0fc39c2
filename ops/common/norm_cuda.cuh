// Layer and RMS normalisation share these kernels: RMS normalisation is the one without mean and bias.
//
// Memory-bound: forward moves x (and the residual) in and y (and the sum) out, backward x, dy (and dsum) in and dx out.
// So one warp takes one row, 16 bytes a lane, and keeps it in registers between its passes: each byte moves once. Rows
// too long for that, or not aligned, go one block a row through the cache (`wide_*`).
//
// With an order of channels y leaves in it and dy arrives in it: a warp turns its row round in shared memory, whose
// time hides behind the row's way to and from memory.
//
// Backward gives each warp every so-manieth row and brings the next one to shared memory meanwhile; the gradients of
// weight and bias stay in the warp's registers, are added up in the block warp after warp, and a last kernel adds up
// the blocks: the same bits every run.
#pragma once

#include "core/cuda/launch.cuh"
#include "ops/common/norm_rows_cuda.cuh"
#include "ops/common/normed.h"

namespace basis::ops::norm {

using namespace core;
inline constexpr int kThreads = 256, kWarps = kThreads / 32;
inline constexpr int64_t kBlocks = 132 * 3;  // that many fit at up to 168 registers a thread

template <class T>
T* pointer(const Tensor& t) {
  return t ? t.data<T>() : nullptr;
}

// Shared memory: a row of c for each warp where Ordered.
template <class T, int W, int Passes, bool Rms, bool Ordered>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* x, const T* residual, const T* weight, const T* bias, const int32_t* order,
                   Accumulator<T> eps, T* y, T* sum, Accumulator<T>* mean, Accumulator<T>* rstd, int64_t n, int64_t c) {
  using A = Accumulator<T>;
  using R = Row<T, W, Passes>;
  int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32, at = row * c;
  if (row >= n) return;
  R in, w, b;
  in.load(x + at, c);
  if (residual) {
    R r;
    r.load(residual + at, c);
    R::each(c, [&](int i, int j) { in.v[i].v[j] = device_convert<T>(widen(in.v[i].v[j]) + widen(r.v[i].v[j])); });
    in.store(sum + at, c);
  }
  w.load(weight, c);
  if (bias) b.load(bias, c);
  A mu = 0, squares = 0;
  if constexpr (!Rms) {
    R::each(c, [&](int i, int j) { mu += widen(in.v[i].v[j]); });
    mu = warp_reduce<Sum>(mu) / A(c);
  }
  R::each(c, [&](int i, int j) {
    A d = widen(in.v[i].v[j]) - mu;
    squares += d * d;
  });
  A inverse = 1 / sqrt(warp_reduce<Sum>(squares) / A(c) + eps);
  if (threadIdx.x % 32 == 0) {
    if constexpr (!Rms) mean[row] = mu;
    rstd[row] = inverse;
  }
  R::each(c, [&](int i, int j) {
    A h = (widen(in.v[i].v[j]) - mu) * inverse * widen(w.v[i].v[j]);
    in.v[i].v[j] = device_convert<T>(bias ? h + widen(b.v[i].v[j]) : h);
  });
  if constexpr (Ordered) {
    extern __shared__ double shared_memory[];
    T* turned = reinterpret_cast<T*>(shared_memory) + threadIdx.x / 32 * c;
    in.store(turned, c);
    __syncwarp();
    Row<int32_t, W, Passes> from;
    from.load(order, c);
    R::each(c, [&](int i, int j) { in.v[i].v[j] = turned[from.v[i].v[j]]; });
  }
  in.store(y + at, c);
}

// partials [gridDim.x, 2, c] or null. Shared memory: RowBuffers, and a row of c for each warp where Ordered; or [2, c]
// if that is more.
template <class T, int W, int Passes, bool Rms, bool Ordered>
__global__ void __launch_bounds__(kBackwardThreads)
    backward_kernel(const T* x, const T* weight, const Accumulator<T>* mean, const Accumulator<T>* rstd, const T* dy,
                    const T* dsum, const int32_t* order, T* dx, Accumulator<T>* partials, int64_t n, int64_t c) {
  using A = Accumulator<T>;
  using R = Row<T, W, Passes>;
  extern __shared__ double shared_memory[];
  RowBuffers<T, W, Passes> rows(shared_memory);
  int warp = threadIdx.x / 32, turn = 0;
  A dw[Passes][W] = {}, db[Passes][W] = {};
  R w;
  w.load(weight, c);
  auto fetch = [&](int64_t row, int into) {
    if (row < n) {
      rows.fetch(into, 0, x + row * c, c);
      rows.fetch(into, 1, dy + row * c, c);
      if (dsum) rows.fetch(into, 2, dsum + row * c, c);
    }
    end_copy_group();
  };
  int64_t row = int64_t(blockIdx.x) * kBackwardWarps + warp, step = int64_t(gridDim.x) * kBackwardWarps;
  fetch(row, 0);
  for (; row < n; row += step, turn ^= 1) {
    fetch(row + step, turn ^ 1);
    A mu = 0, inverse = rstd[row], g_sum = 0, gx_sum = 0;
    if constexpr (!Rms) mu = mean[row];
    wait_for_copy_groups<1>();
    R in, d;
    rows.read(turn, 0, in, c);
    rows.read(turn, 1, d, c);
    if constexpr (Ordered) {
      T* turned = reinterpret_cast<T*>(reinterpret_cast<char*>(shared_memory) + RowBuffers<T, W, Passes>::kBytes);
      turned += warp * c;
      Row<int32_t, W, Passes> into;
      into.load(order, c);
      __syncwarp();  // the row before has been read
      R::each(c, [&](int i, int j) { turned[into.v[i].v[j]] = d.v[i].v[j]; });
      __syncwarp();
      d.load(turned, c);
    }
    R::each(c, [&](int i, int j) {
      A e = widen(d.v[i].v[j]), g = e * widen(w.v[i].v[j]), h = (widen(in.v[i].v[j]) - mu) * inverse;
      g_sum += g, gx_sum += g * h;
      dw[i][j] += e * h;
      if constexpr (!Rms) db[i][j] += e;
    });
    if constexpr (!Rms) g_sum = warp_reduce<Sum>(g_sum) / A(c);
    gx_sum = warp_reduce<Sum>(gx_sum) / A(c);
    R s;
    if (dsum) rows.read(turn, 2, s, c);
    R::each(c, [&](int i, int j) {
      A g = widen(d.v[i].v[j]) * widen(w.v[i].v[j]), h = (widen(in.v[i].v[j]) - mu) * inverse;
      A e = inverse * (g - (Rms ? A(0) : g_sum) - h * gx_sum);
      in.v[i].v[j] = device_convert<T>(dsum ? e + widen(s.v[i].v[j]) : e);
    });
    in.store(dx + row * c, c);
  }
  if (!partials) return;
  __syncthreads();
  A* total = reinterpret_cast<A*>(shared_memory);  // [2, c]
  for (int next = 0; next < kBackwardWarps; ++next) {
    if (warp == next)
      R::each(c, [&](int i, int j) {
        int64_t at = R::column(i) + j;
        total[at] = (next ? total[at] : A(0)) + dw[i][j];
        total[c + at] = (next ? total[c + at] : A(0)) + db[i][j];
      });
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < 2 * c; j += kBackwardThreads) partials[blockIdx.x * 2 * c + j] = total[j];
}

template <class T, bool Rms>
__global__ void __launch_bounds__(kThreads)
    wide_forward_kernel(const T* x, const T* residual, const T* weight, const T* bias, const int32_t* order,
                        Accumulator<T> eps, T* y, T* sum, Accumulator<T>* mean, Accumulator<T>* rstd, int64_t c) {
  using A = Accumulator<T>;
  int64_t row = blockIdx.x, at = row * c;
  auto value = [&](int64_t j) { return residual ? widen(sum[at + j]) : widen(x[at + j]); };
  A total = 0, mu = 0, squares = 0;
  for (int64_t j = threadIdx.x; j < c; j += kThreads) {
    if (residual) sum[at + j] = device_convert<T>(widen(x[at + j]) + widen(residual[at + j]));
    total += value(j);
  }
  if constexpr (!Rms) mu = block_reduce<Sum, kThreads>(total) / A(c);
  for (int64_t j = threadIdx.x; j < c; j += kThreads) squares += (value(j) - mu) * (value(j) - mu);
  A inverse = 1 / sqrt(block_reduce<Sum, kThreads>(squares) / A(c) + eps);
  if (threadIdx.x == 0) {
    if constexpr (!Rms) mean[row] = mu;
    rstd[row] = inverse;
  }
  for (int64_t j = threadIdx.x; j < c; j += kThreads) {
    int64_t from = order ? order[j] : j;  // another thread's part of the sum: block_reduce has waited for it
    A h = (value(from) - mu) * inverse * widen(weight[from]);
    y[at + j] = device_convert<T>(h + (bias ? widen(bias[from]) : A(0)));
  }
}

template <class T, bool Rms>
__global__ void __launch_bounds__(kThreads)
    wide_backward_kernel(const T* x, const T* weight, const Accumulator<T>* mean, const Accumulator<T>* rstd,
                         const T* dy, const T* dsum, const int32_t* order, T* dx, Accumulator<T>* partials, int64_t n,
                         int64_t c) {
  using A = Accumulator<T>;
  auto channel = [&](int64_t j) { return order ? int64_t(order[j]) : j; };  // where dy's j-th belongs in x
  A *dw = partials ? partials + int64_t(blockIdx.x) * 2 * c : nullptr, *db = dw + c;
  for (int64_t j = threadIdx.x; dw && j < c; j += kThreads) dw[j] = db[j] = 0;
  __syncthreads();  // from here a thread keeps to its own channels
  for (int64_t row = blockIdx.x; row < n; row += gridDim.x) {
    int64_t at = row * c;
    A mu = 0, inverse = rstd[row], g_sum = 0, gx_sum = 0;
    if constexpr (!Rms) mu = mean[row];
    for (int64_t i = threadIdx.x; i < c; i += kThreads) {
      int64_t j = channel(i);
      A d = widen(dy[at + i]), g = d * widen(weight[j]), h = (widen(x[at + j]) - mu) * inverse;
      g_sum += g, gx_sum += g * h;
      if (dw) dw[j] += d * h, db[j] += d;
    }
    if constexpr (!Rms) g_sum = block_reduce<Sum, kThreads>(g_sum) / A(c);
    gx_sum = block_reduce<Sum, kThreads>(gx_sum) / A(c);
    for (int64_t i = threadIdx.x; i < c; i += kThreads) {
      int64_t j = channel(i);
      A g = widen(dy[at + i]) * widen(weight[j]), h = (widen(x[at + j]) - mu) * inverse;
      A d = inverse * (g - (Rms ? A(0) : g_sum) - h * gx_sum);
      dx[at + j] = device_convert<T>(d + (dsum ? widen(dsum[at + j]) : A(0)));
    }
  }
}

// A block adds up 32 columns of partials [blocks, 2c]; its warps take every so-manieth row and are added in order.
template <class A>
__global__ void __launch_bounds__(1024)
    finish_kernel(const A* partials, int64_t blocks, int64_t c, A* dweight, A* dbias) {
  __shared__ A part[32][33];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t j = int64_t(blockIdx.x) * 32 + lane;
  A sum = 0;
  if (j < 2 * c)
    for (int64_t i = warp; i < blocks; i += 32) sum += partials[i * 2 * c + j];
  part[warp][lane] = sum;
  __syncthreads();
  A total = warp_reduce<Sum>(part[lane][warp]);
  j = int64_t(blockIdx.x) * 32 + warp;
  if (lane != 0 || j >= 2 * c) return;
  if (j < c && dweight) dweight[j] = total;
  if (j >= c && dbias) dbias[j - c] = total;
}

// Whether W indices may be read at once.
template <int W>
bool whole_vectors(const int32_t* order) {
  return reinterpret_cast<uintptr_t>(order) % alignof(Vec<int32_t, W>) == 0;
}

// run(std::integral_constant<int, Passes>) with the fewest vectors of W a lane that hold a row, or false.
template <int W, class Run>
bool with_passes(int64_t c, Run run) {
  constexpr int kMost = 32 / W;  // 32 elements a lane
  auto try_one = [&](auto passes) {
    if (decltype(passes)::value > kMost || c > decltype(passes)::value * 32 * W) return false;
    run(passes);
    return true;
  };
  return try_one(std::integral_constant<int, 1>{}) || try_one(std::integral_constant<int, 2>{}) ||
         try_one(std::integral_constant<int, 3>{}) || try_one(std::integral_constant<int, 4>{}) ||
         try_one(std::integral_constant<int, (kMost < 6 ? 4 : 6)>{}) ||
         try_one(std::integral_constant<int, (kMost < 8 ? 4 : 8)>{});
}

template <class T, bool Rms>
void forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, const NormAttrs& a,
             const Tensor& y, const Tensor& sum, const Tensor& mean, const Tensor& rstd) {
  using A = Accumulator<T>;
  constexpr int W = kVecWidth<T>;
  int64_t n = x.size(0), c = x.size(1);
  const T *in = x.data<T>(), *r = pointer<T>(residual), *w = weight.data<T>(), *b = pointer<T>(bias);
  T *out = y.data<T>(), *s = pointer<T>(sum);
  const int32_t* order = pointer<int32_t>(a.order);
  if (whole_vectors<W>(order) && aligned16<T>(c, {in, r, w, b, out, s}) && with_passes<W>(c, [&](auto passes) {
        constexpr int kPasses = decltype(passes)::value;
        auto kernel = order ? forward_kernel<T, W, kPasses, Rms, true> : forward_kernel<T, W, kPasses, Rms, false>;
        launch_shared(kernel, x.device(), dim3(unsigned(ceil_div(n, kWarps))), kThreads,
                      order ? size_t(kWarps * c) * sizeof(T) : 0, in, r, w, b, order, A(a.eps), out, s,
                      pointer<A>(mean), rstd.data<A>(), n, c);
      }))
    return;
  launch(wide_forward_kernel<T, Rms>, x.device(), n, kThreads, in, r, w, b, order, A(a.eps), out, s, pointer<A>(mean),
         rstd.data<A>(), c);
}

template <class T, bool Rms>
void backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dy,
              const Tensor& dsum, const Tensor& order, const Tensor& dx, const Tensor& dweight, const Tensor& dbias) {
  using A = Accumulator<T>;
  constexpr int W = kVecWidth<T>;
  int64_t n = x.size(0), c = x.size(1), blocks = std::max<int64_t>(1, std::min<int64_t>(n, kBlocks));
  const T *in = x.data<T>(), *w = weight.data<T>(), *d = dy.data<T>(), *s = pointer<T>(dsum);
  const int32_t* channels = pointer<int32_t>(order);
  T* out = dx.data<T>();
  Tensor partials;
  if (dweight || dbias) partials = Tensor::empty({blocks, 2, c}, dtype_of<A>(), x.device());
  bool done = whole_vectors<W>(channels) && aligned16<T>(c, {in, w, d, s, out}) && with_passes<W>(c, [&](auto passes) {
                constexpr int kPasses = decltype(passes)::value;
                size_t rows = RowBuffers<T, W, kPasses>::kBytes + (order ? size_t(kBackwardWarps * c) * sizeof(T) : 0);
                auto kernel =
                    order ? backward_kernel<T, W, kPasses, Rms, true> : backward_kernel<T, W, kPasses, Rms, false>;
                launch_shared(kernel, x.device(), dim3(unsigned(blocks)), kBackwardThreads,
                              std::max(rows, size_t(2 * c) * sizeof(A)), in, w, pointer<A>(mean), rstd.data<A>(), d, s,
                              channels, out, pointer<A>(partials), n, c);
              });
  if (!done)
    launch(wide_backward_kernel<T, Rms>, x.device(), blocks, kThreads, in, w, pointer<A>(mean), rstd.data<A>(), d, s,
           channels, out, pointer<A>(partials), n, c);
  if (partials)
    launch(finish_kernel<A>, x.device(), ceil_div(2 * c, 32), 1024, partials.data<A>(), blocks, c, pointer<A>(dweight),
           pointer<A>(dbias));
}

}  // namespace basis::ops::norm
