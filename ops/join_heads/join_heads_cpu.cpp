#include "core/parallel.h"
#include "ops/join_heads/join_heads.h"

namespace basis::ops {
namespace {

// Calls body(token, head) in parallel over tokens.
template <class Body>
void for_heads(const Tensor& y, Body&& body) {
  int64_t H = y.size(1), grain = std::max<int64_t>(1, 16384 / (H * y.size(2)));
  core::parallel_for(y.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t h = 0; h < H; ++h) body(n, h);
  });
}

template <class T>
void forward(const Tensor& a, const Tensor& b, const Tensor& y) {
  int64_t H = y.size(1), N = a.size(2), R = b.size(2), shared = b.size(1) != H;
  const T *pa = a.data<T>(), *pb = b.data<T>();
  T* out = y.data<T>();
  for_heads(y, [=](int64_t n, int64_t h) {
    T* to = out + (n * H + h) * (N + R);
    std::copy_n(pa + (n * H + h) * N, N, to);
    std::copy_n(pb + (shared ? n : n * H + h) * R, R, to + N);
  });
}

template <class T>
void backward(const Tensor& dy, const Tensor& da, const Tensor& db) {
  int64_t H = dy.size(1), D = dy.size(2), N = da ? da.size(2) : D - db.size(2), R = D - N,
          shared = db && db.size(1) != H;
  const T* in = dy.data<T>();
  T *pa = da ? da.data<T>() : nullptr, *pb = db ? db.data<T>() : nullptr;
  for_heads(dy, [=](int64_t n, int64_t h) {
    const T* from = in + (n * H + h) * D;
    if (pa) std::copy_n(from, N, pa + (n * H + h) * N);
    if (!pb) return;
    T* to = pb + (shared ? n : n * H + h) * R;
    for (int64_t i = 0; i < R; ++i) to[i] = shared && h ? to[i] + from[N + i] : from[N + i];
  });
}

REGISTER_KERNEL(join_heads_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(join_heads_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(join_heads_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(join_heads_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
