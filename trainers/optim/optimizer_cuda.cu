// The optimizer on the device. All parameters lie in one table that travels with the launch, so a step takes one launch
// for the update and two for the norm, however many parameters there are. Memory-bound: AdamW moves 28 bytes a
// parameter (30 with a 16-bit copy), 16 a thread at a time where the addresses allow it. Nothing waits for the host.
#include "core/cuda/launch.cuh"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {
namespace {

using namespace core;
constexpr int kThreads = 256, kSlots = 440;
constexpr int64_t kUpdateChunk = 4096, kNormChunk = 16384;  // elements of a block

template <class T>
struct Slot {
  T *p, *m, *v;
  const T* g;
  void* copy;
  int64_t n;
  double lr_scale, weight_decay;
};

// Slot i has the blocks [first[i], first[i + 1]).
template <class T>
struct Table {
  int count = 0;
  uint32_t first[kSlots + 1] = {};
  Slot<T> slots[kSlots];

  __device__ int slot_of(uint32_t block) const {
    int low = 0, high = count;  // first[low] <= block < first[high]
    while (high - low > 1) {
      int middle = (low + high) / 2;
      (first[middle] <= block ? low : high) = middle;
    }
    return low;
  }
};
static_assert(sizeof(Table<double>) < 32000);  // what a launch can carry: 32,764 bytes

// run(table, blocks) for tables that hold all items in order.
template <class T, class Items, class Fill, class Run>
void in_tables(const Items& items, int64_t chunk, Fill fill, Run run) {
  for (size_t done = 0; done < items.size();) {
    Table<T> table;
    for (; done < items.size() && table.count < kSlots; ++done) {
      Slot<T> slot = fill(items[done]);
      if (slot.n == 0) continue;
      table.slots[table.count] = slot;
      table.first[table.count + 1] = table.first[table.count] + uint32_t(ceil_div(slot.n, chunk));
      ++table.count;
    }
    if (table.count) run(table, int64_t(table.first[table.count]));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) squares(const __grid_constant__ Table<T> table, double* partial) {
  constexpr int W = kVecWidth<T>;
  int i = table.slot_of(blockIdx.x);
  const Slot<T>& s = table.slots[i];
  int64_t begin = int64_t(blockIdx.x - table.first[i]) * kNormChunk, end = min(begin + kNormChunk, s.n);
  double sum = 0;
  auto add = [&](T x) { sum += double(x) * double(x); };
  if (reinterpret_cast<uintptr_t>(s.g) % 16 == 0) {
    int64_t vectors = (end - begin) / W;
#pragma unroll 4
    for (int64_t j = threadIdx.x; j < vectors; j += kThreads) {
      Vec<T, W> x = load_vec<W>(s.g + begin + j * W);
#pragma unroll
      for (int k = 0; k < W; ++k) add(x.v[k]);
    }
    for (int64_t j = begin + vectors * W + threadIdx.x; j < end; j += kThreads) add(s.g[j]);
  } else {
    for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) add(s.g[j]);
  }
  sum = block_reduce<Sum, kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// A warp adds up each tensor's blocks; then the tensors are added in order.
template <class T>
__global__ void __launch_bounds__(1024)
    add_partials(const __grid_constant__ Table<T> table, const double* partial, double* scalars) {
  __shared__ double sums[kSlots];
  for (int i = threadIdx.x / 32; i < table.count; i += 32) {
    double sum = 0;
#pragma unroll 8
    for (uint32_t b = table.first[i] + threadIdx.x % 32; b < table.first[i + 1]; b += 32) sum += partial[b];
    sum = warp_reduce<Sum>(sum);
    if (threadIdx.x % 32 == 0) sums[i] = sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = scalars[kSquaredNorm];
  for (int i = 0; i < table.count; ++i) total += sums[i];
  scalars[kSquaredNorm] = total;
}

template <class T>
void squared_norms(const Tensors& xs, const Tensor& scalars) {
  Device device = scalars.device();
  auto fill = [](const Tensor& x) { return Slot<T>{.g = x.data<T>(), .n = x.numel()}; };
  in_tables<T>(xs, kNormChunk, fill, [&](const Table<T>& table, int64_t blocks) {
    Tensor partial = Tensor::empty({blocks}, DType::f64, device);
    launch(squares<T>, device, blocks, kThreads, table, partial.data<double>());
    launch(add_partials<T>, device, 1, 1024, table, partial.data<double>(), scalars.data<double>());
  });
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
struct AdamW {
  static constexpr bool kSecond = true;
  T b1, b2, c1, c2, eps, factor, decay, rate, root;
  __device__ AdamW(const Hyper& h, const double* s, double lr_scale, double weight_decay) {
    double lr = s[kLearningRate] * lr_scale;
    b1 = T(h.beta1), b2 = T(h.beta2), c1 = T(1 - h.beta1), c2 = T(1 - h.beta2), eps = T(h.eps), factor = T(s[kFactor]);
    decay = T(1 - lr * weight_decay), rate = T(lr / (1 - pow(h.beta1, s[kTime])));
    root = T(1 / sqrt(1 - pow(h.beta2, s[kTime])));
  }
  __device__ void operator()(T& p, T& m, T& v, T g) const {
    T x = g * factor;
    m = b1 * m + c1 * x;
    v = b2 * v + c2 * x * x;
    p = p * decay - rate * m / (sqrt(v) * root + eps);
  }
};

template <class T>
struct Sgd {
  static constexpr bool kSecond = false;
  T mu, factor, decay, rate;
  __device__ Sgd(const Hyper& h, const double* s, double lr_scale, double weight_decay) {
    double lr = s[kLearningRate] * lr_scale;
    mu = T(h.momentum), factor = T(s[kFactor]), decay = T(1 - lr * weight_decay), rate = T(lr);
  }
  __device__ void operator()(T& p, T& m, T&, T g) const {
    m = mu * m + g * factor;
    p = p * decay - rate * m;
  }
};

template <class Rule, int W, class T, class Half>
__device__ void update_range(const Rule& rule, const Slot<T>& s, int64_t begin, int64_t end) {
  Half* copy = static_cast<Half*>(s.copy);
#pragma unroll 2
  for (int64_t j = begin + threadIdx.x * W; j < end; j += kThreads * W) {
    Vec<T, W> p = load_vec<W>(s.p + j), g = load_vec<W>(s.g + j), m = load_vec<W>(s.m + j), v{};
    if constexpr (Rule::kSecond) v = load_vec<W>(s.v + j);
    Vec<Half, W> rounded;
#pragma unroll
    for (int k = 0; k < W; ++k) {
      rule(p.v[k], m.v[k], v.v[k], g.v[k]);
      rounded.v[k] = device_convert<Half>(p.v[k]);
    }
    store_vec(s.p + j, p), store_vec(s.m + j, m);
    if constexpr (Rule::kSecond) store_vec(s.v + j, v);
    if (copy) store_vec(copy + j, rounded);
  }
}

template <class Rule, class T, class Half>
__global__ void __launch_bounds__(kThreads)
    update_kernel(const __grid_constant__ Table<T> table, Hyper h, const double* scalars) {
  if (scalars[kSkip] != 0) return;
  constexpr int W = kVecWidth<T>;
  int i = table.slot_of(blockIdx.x);
  const Slot<T>& s = table.slots[i];
  __shared__ alignas(Rule) char memory[sizeof(Rule)];  // the powers once a block, in f64
  if (threadIdx.x == 0) new (memory) Rule(h, scalars, s.lr_scale, s.weight_decay);
  __syncthreads();
  Rule rule = *reinterpret_cast<const Rule*>(memory);
  int64_t begin = int64_t(blockIdx.x - table.first[i]) * kUpdateChunk, end = min(begin + kUpdateChunk, s.n);
  auto all = reinterpret_cast<uintptr_t>(s.p) | reinterpret_cast<uintptr_t>(s.g) | reinterpret_cast<uintptr_t>(s.m) |
             reinterpret_cast<uintptr_t>(s.v) | reinterpret_cast<uintptr_t>(s.copy);
  int64_t whole = all % 16 ? begin : begin + (end - begin) / W * W;
  update_range<Rule, W, T, Half>(rule, s, begin, whole);
  update_range<Rule, 1, T, Half>(rule, s, whole, end);
}

template <template <class> class Rule, class T>
void update_all(const Hyper& h, const Tensor& scalars, const std::vector<Update>& updates) {
  auto pointer = [](const Tensor& t) { return t ? t.data<T>() : nullptr; };
  auto fill = [&](const Update& u) {
    return Slot<T>{pointer(u.parameter), pointer(u.first),    pointer(u.second), pointer(u.gradient),
                   u.copy.raw(),         u.parameter.numel(), u.lr_scale,        u.weight_decay};
  };
  bool f16_copies = !updates.empty() && updates[0].copy && updates[0].copy.dtype() == DType::f16;
  auto kernel = f16_copies ? update_kernel<Rule<T>, T, f16> : update_kernel<Rule<T>, T, bf16>;
  in_tables<T>(updates, kUpdateChunk, fill, [&](const Table<T>& table, int64_t blocks) {
    launch(kernel, scalars.device(), blocks, kThreads, table, h, scalars.data<double>());
  });
}

REGISTER_KERNEL(add_squared_norms, cuda, f32, squared_norms<float>)
REGISTER_KERNEL(add_squared_norms, cuda, f64, squared_norms<double>)
REGISTER_KERNEL(finish_norm, cuda, f64, finish)
REGISTER_KERNEL(adamw_update, cuda, f32, (update_all<AdamW, float>))
REGISTER_KERNEL(adamw_update, cuda, f64, (update_all<AdamW, double>))
REGISTER_KERNEL(sgd_update, cuda, f32, (update_all<Sgd, float>))
REGISTER_KERNEL(sgd_update, cuda, f64, (update_all<Sgd, double>))

}  // namespace
}  // namespace basis::trainers
