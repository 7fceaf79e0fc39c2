// Between [B,N,H,w] in the model's dtype and packed [heads, positions, width] in f32 (f64). A warp a row: rows are
// counted in 32 bits, and what is divided is divided once a row.
#include "core/cuda/launch.cuh"
#include "ops/low_rank_attention/low_rank_attention.h"

namespace basis::ops {
namespace {

using namespace core;
constexpr unsigned kThreads = 256, kWarps = kThreads / 32;

template <class... Params, class... Args>
void launch_rows(void (*kernel)(Params...), Device device, int64_t rows, Args&&... args) {
  require(rows < int64_t{1} << 32, "low_rank_attention", "fewer than 2^32 rows", std::to_string(rows));
  launch(kernel, device, (rows + kWarps - 1) / kWarps, int(kThreads), unsigned(rows), std::forward<Args>(args)...);
}

__device__ __forceinline__ unsigned warp_row() { return blockIdx.x * kWarps + threadIdx.x / 32; }

// Row z long_n + position of packed.
template <class T>
__global__ void pack_kernel(unsigned rows, const T* x, const int32_t* lengths, unsigned front, unsigned N, unsigned H,
                            unsigned w, unsigned long_n, unsigned width, Accumulator<T>* packed) {
  unsigned row = warp_row();
  if (row >= rows) return;
  unsigned z = row / long_n, place = row - z * long_n, b = z / H;
  bool inside = place >= front && place - front < N && (!lengths || int64_t(place - front) < lengths[b]);
  x += ((int64_t(b) * N + place - front) * H + z - b * H) * w;
  packed += int64_t(row) * width;
  for (unsigned c = threadIdx.x % 32; c < width; c += 32)
    packed[c] = !inside ? Accumulator<T>(0) : c < w ? widen(x[c]) : Accumulator<T>(1);
}

// Row (b N + i) H + h of x.
template <class T>
__global__ void unpack_kernel(unsigned rows, const Accumulator<T>* packed, const int32_t* lengths, unsigned front,
                              unsigned N, unsigned H, unsigned w, int64_t long_n, unsigned group, T* x) {
  unsigned row = warp_row();
  if (row >= rows) return;
  unsigned token = row / H, h = row - token * H, b = token / N, i = token - b * N;
  bool inside = !lengths || int64_t(i) < lengths[b];
  packed += ((int64_t(b) * H + h) * group * long_n + front + i) * w;
  x += int64_t(row) * w;
  for (unsigned c = threadIdx.x % 32; c < w; c += 32) {
    Accumulator<T> sum = 0;
    for (unsigned e = 0; e < group && inside; ++e) sum += packed[int64_t(e) * long_n * w + c];
    x[c] = device_convert<T>(sum);
  }
}

// Row (b N + i) H + h of o.
template <class T>
__global__ void divide_kernel(unsigned rows, const Accumulator<T>* sums, unsigned front, unsigned N, unsigned H,
                              unsigned w, int64_t long_n, T* o, Accumulator<T>* mass) {
  unsigned row = warp_row();
  if (row >= rows) return;
  unsigned token = row / H, h = row - token * H, b = token / N, i = token - b * N;
  int64_t z = int64_t(b) * H + h;
  sums += (z * long_n + front + i) * (w + 1);
  Accumulator<T> m = sums[w];
  if (threadIdx.x % 32 == 0) mass[z * N + i] = m;
  o += int64_t(row) * w;
  for (unsigned c = threadIdx.x % 32; c < w; c += 32)
    o[c] = device_convert<T>(m != 0 ? sums[c] / m : Accumulator<T>(0));
}

// Row z long_n + position of g.
template <class T>
__global__ void gradient_kernel(unsigned rows, const T* dout, const T* o, const Accumulator<T>* mass, unsigned front,
                                unsigned N, unsigned H, unsigned w, unsigned long_n, Accumulator<T>* g) {
  unsigned row = warp_row();
  if (row >= rows) return;
  unsigned z = row / long_n, place = row - z * long_n, b = z / H;
  bool inside = place >= front && place - front < N;
  Accumulator<T> m = inside ? mass[int64_t(z) * N + place - front] : Accumulator<T>(0), dot = 0;
  int64_t at = ((int64_t(b) * N + place - front) * H + z - b * H) * w;
  g += int64_t(row) * (w + 1);
  for (unsigned c = threadIdx.x % 32; c < w; c += 32) {
    Accumulator<T> dy = m != 0 ? widen(dout[at + c]) / m : Accumulator<T>(0);
    g[c] = dy;
    if (m != 0) dot += dy * widen(o[at + c]);
  }
  dot = warp_reduce<Sum>(dot);
  if (threadIdx.x % 32 == 0) g[w] = -dot;
}

const int32_t* pointer(const Tensor& lengths) { return lengths ? lengths.data<int32_t>() : nullptr; }

template <class T>
void pack(const Tensor& x, const Tensor& lengths, int64_t front, bool, const Tensor& packed) {
  launch_rows(pack_kernel<T>, x.device(), packed.size(0) * packed.size(1), x.data<T>(), pointer(lengths),
              unsigned(front), unsigned(x.size(1)), unsigned(x.size(2)), unsigned(x.size(3)), unsigned(packed.size(1)),
              unsigned(packed.size(2)), packed.data<Accumulator<T>>());
}

template <class T>
void unpack(const Tensor& packed, const Tensor& lengths, int64_t front, const Tensor& x) {
  launch_rows(unpack_kernel<T>, x.device(), x.size(0) * x.size(1) * x.size(2), packed.data<Accumulator<T>>(),
              pointer(lengths), unsigned(front), unsigned(x.size(1)), unsigned(x.size(2)), unsigned(x.size(3)),
              packed.size(1), unsigned(packed.size(0) / (x.size(0) * x.size(2))), x.data<T>());
}

template <class T>
void divide(const Tensor& sums, int64_t front, const Tensor& o, const Tensor& mass) {
  launch_rows(divide_kernel<T>, o.device(), o.size(0) * o.size(1) * o.size(2), sums.data<Accumulator<T>>(),
              unsigned(front), unsigned(o.size(1)), unsigned(o.size(2)), unsigned(o.size(3)), sums.size(1), o.data<T>(),
              mass.data<Accumulator<T>>());
}

template <class T>
void gradient(const Tensor& dout, const Tensor& o, const Tensor& mass, int64_t front, const Tensor& g) {
  launch_rows(gradient_kernel<T>, o.device(), g.size(0) * g.size(1), dout.data<T>(), o.data<T>(),
              mass.data<Accumulator<T>>(), unsigned(front), unsigned(o.size(1)), unsigned(o.size(2)),
              unsigned(o.size(3)), unsigned(g.size(1)), g.data<Accumulator<T>>());
}

template <class T>
bool add_kernels() {
  constexpr DType dtype = dtype_of<T>();
  return low_rank_pack.set(DeviceType::cuda, dtype, pack<T>) &&
         low_rank_unpack.set(DeviceType::cuda, dtype, unpack<T>) &&
         low_rank_divide.set(DeviceType::cuda, dtype, divide<T>) &&
         low_rank_gradient.set(DeviceType::cuda, dtype, gradient<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
