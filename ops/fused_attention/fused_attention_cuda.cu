// Our own attention kernels on CUDA: which of them takes a call, and what they share. Backward adds nothing up with
// atomics: dk and dv come from blocks that own a tile of keys and walk the queries, dq from blocks that own a tile of
// queries and walk the keys, so that two runs give the same bits.
#include "ops/fused_attention/fused_attention_cuda.cuh"

namespace basis::ops {
namespace {

using namespace fused;
constexpr int kThreads = 256;

// delta[b,h,i] = <do, o>, a warp per row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    delta_kernel(Call call, const T* o, const T* dout, Accumulator<T>* delta, int64_t rows) {
  int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32;  // (b T + i) H + h
  if (at >= rows) return;
  o += at * call.Dv, dout += at * call.Dv;
  Accumulator<T> sum = 0;
  for (int d = threadIdx.x % 32; d < call.Dv; d += 32) sum += widen(o[d]) * widen(dout[d]);
  sum = warp_reduce<Sum>(sum);
  int64_t bt = at / call.H;
  if (threadIdx.x % 32 == 0) delta[call.row(int(bt / call.T), int(at % call.H), int(bt % call.T))] = sum;
}

Call make_call(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o) {
  AttentionShape n = check_attention(q, k, v, o, "fused_attention");
  if (n.S > INT32_MAX / 2 || n.B * n.H > INT32_MAX)
    throw Error({.where = "fused_attention", .expected = "fewer than 2^30 keys and 2^31 heads on CUDA"});
  Call c{};
  c.B = int(n.B), c.T = int(n.T), c.S = int(n.S), c.H = int(n.H), c.Hkv = int(n.Hkv), c.D = int(n.D), c.Dv = int(n.Dv);
  c.group = c.H / c.Hkv, c.scale = n.scale, c.causal = o.causal, c.window = o.window, c.sink = o.sink;
  c.key_lengths = o.key_lengths ? o.key_lengths.data<int32_t>() : nullptr;
  c.dropout = float(o.dropout), c.kept = float(1 / (1 - o.dropout)), c.seed = o.seed, c.stream = o.stream;
  c.base = o.base;
  return c;
}

template <class T>
void forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options, const Tensor& o,
             const Tensor& lse) {
  Call call = make_call(q, k, v, options);
  Pointers p{};
  p.q = q.raw(), p.k = k.raw(), p.v = v.raw(), p.o = o.raw(), p.lse = lse.raw();
  if (hopper_forward(call, p, q.dtype(), q.device()) || mma_forward(call, p, q.dtype(), q.device())) return;
  plain_forward(call, p, q.dtype(), q.device());
}

template <class T>
void backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse, const Tensor& dout,
              const AttentionOptions& options, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  Call call = make_call(q, k, v, options);
  Tensor delta = lse.empty_like();
  int64_t rows = lse.numel();
  launch(delta_kernel<T>, q.device(), ceil_div(rows * 32, kThreads), kThreads, call, o.data<T>(), dout.data<T>(),
         delta.data<Accumulator<T>>(), rows);
  Pointers p{q.raw(), k.raw(), v.raw(), dout.raw(), o.raw(), lse.raw(), delta.raw(), dq.raw(), dk.raw(), dv.raw()};
  if (hopper_backward(call, p, q.dtype(), q.device()) || mma_backward(call, p, q.dtype(), q.device())) return;
  plain_backward(call, p, q.dtype(), q.device());
}

template <class T>
bool add_kernels() {
  return fused_attention_forward.set(DeviceType::cuda, dtype_of<T>(), forward<T>) &&
         fused_attention_backward.set(DeviceType::cuda, dtype_of<T>(), backward<T>);
}
[[maybe_unused]] const bool registered =
    add_kernels<double>() && add_kernels<float>() && add_kernels<bf16>() && add_kernels<f16>();

}  // namespace
}  // namespace basis::ops
