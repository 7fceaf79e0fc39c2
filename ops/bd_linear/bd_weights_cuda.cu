// One launch for all three weights and the biases, a block a row: the row is put into its other order in shared memory,
// so that both sides are read and written in order.
#include "core/cuda/launch.cuh"
#include "ops/bd_linear/bd_weights.h"

namespace basis::ops::bd {
namespace {

using namespace core;
constexpr int kThreads = 256;

template <class T>
struct Piece {  // rows of one weight: `width` stored channels beside dh of the identity; or one bias as a single row
  T* stored;
  T* written;
  int rows, width, dh;
  bool front, bias;
};
template <class T>
struct Pieces {
  Piece<T> piece[6];
  const int32_t* order;
  bool inverse;
};

template <class T>
__global__ void weights_kernel(const __grid_constant__ Pieces<T> pieces) {
  extern __shared__ char memory[];
  T* row = reinterpret_cast<T*>(memory);
  int r = blockIdx.x, i = 0;
  for (; r >= pieces.piece[i].rows; ++i) r -= pieces.piece[i].rows;
  const Piece<T>& piece = pieces.piece[i];
  int width = piece.width, dh = piece.dh, d = width + dh;
  if (piece.bias) {
    for (int j = threadIdx.x; j < width; j += kThreads)
      piece.written[j] = piece.stored ? piece.stored[j] : device_convert<T>(Accumulator<T>(0));
    return;
  }
  T* stored = piece.stored + int64_t(r) * width;
  T* written = piece.written + int64_t(r) * d;
  int first = piece.front ? dh : 0, slice = piece.front ? 0 : width, mine = dh ? r % dh : 0;
  auto at = [&](int p) { return pieces.order ? pieces.order[p] : p; };
  if (pieces.inverse) {
    for (int j = threadIdx.x; j < d; j += kThreads) row[j] = written[j];
    __syncthreads();
    for (int p = threadIdx.x; p < width; p += kThreads) stored[p] = row[at(first + p)];
    return;
  }
  for (int p = threadIdx.x; p < width; p += kThreads) row[at(first + p)] = stored[p];
  for (int p = threadIdx.x; p < dh; p += kThreads) row[at(slice + p)] = device_convert<T>(Accumulator<T>(p == mine));
  __syncthreads();
  for (int j = threadIdx.x; j < d; j += kThreads) written[j] = row[j];
}

template <class T>
void weights_cuda(const BdWeightsArguments& a, const BdWeightsOptions& o, bool inverse) {
  Pieces<T> p{.order = o.order ? o.order.data<int32_t>() : nullptr, .inverse = inverse};
  int64_t rows = 0, d = 0, count = 0;
  Device device;
  auto add = [&](const Piece<T>& piece) {
    rows += piece.rows;
    p.piece[count++] = piece;
  };
  for (size_t i = 0; i < 3; ++i) {
    if (a.bias_copy[i])
      add({a.bias[i] ? a.bias[i].data<T>() : nullptr, a.bias_copy[i].data<T>(), 1, int(a.bias_copy[i].numel()), 0,
           false, true});
    if (!a.written[i]) continue;
    d = a.written[i].size(1), device = a.written[i].device();
    int width = int(a.stored[i].size(1));
    add({a.stored[i].data<T>(), a.written[i].data<T>(), int(a.written[i].size(0)), width, int(d) - width,
         bd_slice_of(o, i) == BdSlice::front, false});
  }
  launch_shared(weights_kernel<T>, device, dim3(unsigned(rows)), kThreads, size_t(d) * sizeof(T), p);
}

REGISTER_KERNEL(bd_weights_kernel, cuda, f32, weights_cuda<float>)
REGISTER_KERNEL(bd_weights_kernel, cuda, f64, weights_cuda<double>)
REGISTER_KERNEL(bd_weights_kernel, cuda, bf16, weights_cuda<bf16>)
REGISTER_KERNEL(bd_weights_kernel, cuda, f16, weights_cuda<f16>)

}  // namespace
}  // namespace basis::ops::bd
