// Keys and values of each key head are packed once; then blocks of queries are shared out among the threads. Backward
// adds to dk and dv in a fixed order, so that a run is reproducible at a given number of threads.
#include "core/parallel.h"
#include "ops/fused_attention/fused_attention.h"
#include "ops/fused_attention/fused_attention_cpu_blocks.h"

namespace basis::ops {
namespace {

using namespace cpu_attention;

template <class T>
const Kernels<T>& kernels() {
  static const Kernels<T>& chosen = [&]() -> const Kernels<T>& {
    if (auto* k = kernels_avx512<T>()) return *k;
    if (auto* k = kernels_avx2<T>()) return *k;
    return Blocks<Simd<T, 16>>::table;  // what every target has
  }();
  return chosen;
}

// Memory in parts of equal size, each at the start of a cache line.
template <class T>
struct Parts {
  int64_t size;
  Tensor memory;
  Parts(int64_t parts, int64_t elements)
      : size(round_up(elements, 64)), memory(Tensor::empty({parts * size}, core::dtype_of<T>())) {}
  T* at(int64_t part) const { return memory.data<T>() + part * size; }
};

template <class T>
void forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o, const Tensor& out,
             const Tensor& lse) {
  AttentionShape n = check_attention(q, k, v, o, "fused_attention");
  const Kernels<T>& run = kernels<T>();
  int64_t blocks = (n.T + kRows - 1) / kRows, units = n.B * n.H * blocks, key_heads = n.B * n.Hkv;
  int64_t spans = (n.S + kKeys<T> - 1) / kKeys<T>, padded = round_up(n.S, run.width);
  Parts<T> keys(key_heads, padded * n.D), values(key_heads, n.S * round_up(n.Dv, run.width));
  Parts<T> scratch(omp_get_max_threads(), run.scratch(n));
  auto pack = [&](int64_t head, int64_t k0) {
    int64_t row = head / n.Hkv * n.S * n.Hkv + head % n.Hkv;
    run.pack(n, k.data<T>() + row * n.D, n.Hkv * n.D, v.data<T>() + row * n.Dv, n.Hkv * n.Dv, k0,
             std::min(kKeys<T>, n.S - k0), {keys.at(head), nullptr, nullptr, values.at(head)});
  };
  bool once = units == key_heads;  // keys that one block alone reads are packed just before it
#pragma omp parallel if (units > 1)
  {
    if (!once) {
#pragma omp for schedule(static)
      for (int64_t span = 0; span < key_heads * spans; ++span) pack(span / spans, span % spans * kKeys<T>);
    }
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit) {
      int64_t row0 = (blocks - 1 - unit / (n.B * n.H)) * kRows;  // longest rows first
      int64_t b = unit % (n.B * n.H) / n.H, h = unit % n.H, row = (b * n.T + row0) * n.H + h;
      int64_t head = b * n.Hkv + h * n.Hkv / n.H;
      for (int64_t span = 0; once && span < spans; ++span) pack(head, span * kKeys<T>);
      BlockData<T> data{.q = q.data<T>() + row * n.D,
                        .o = out.data<T>() + row * n.Dv,
                        .lse = lse.data<T>() + (b * n.H + h) * n.T + row0};
      run.forward({n, o, b, h, row0, std::min(kRows, n.T - row0)}, data,
                  {keys.at(head), nullptr, nullptr, values.at(head)}, scratch.at(omp_get_thread_num()));
    }
  }
}

template <class T>
struct BackwardCall {
  const Tensor &q, &k, &v, &out, &lse, &dout;
  const AttentionOptions& o;
  const Tensor &dq, &dk, &dv;
  AttentionShape n;
  const Kernels<T>& run;
  int64_t padded = round_up(n.S, run.width), D = round_up(n.D, run.width), Dv = round_up(n.Dv, run.width);
  int64_t group = n.H / n.Hkv, blocks = (n.T + kRows - 1) / kRows;

  int64_t packed_size() const { return padded * (n.D + n.Dv) + n.S * D; }
  int64_t sums_size() const { return padded * (D + Dv); }

  // Every parts-th block of the query heads of one key head.
  void part(int64_t head, int64_t part, int64_t parts, T* memory, T* sums, T* scratch) const {
    int64_t b = head / n.Hkv, g = head % n.Hkv, key = b * n.S * n.Hkv + g;
    PackedKeys<T> packed{memory, memory + padded * n.D, memory + padded * (n.D + n.Dv), nullptr};
    for (int64_t k0 = 0; k0 < n.S; k0 += kKeys<T>)
      run.pack(n, k.data<T>() + key * n.D, n.Hkv * n.D, v.data<T>() + key * n.Dv, n.Hkv * n.Dv, k0,
               std::min(kKeys<T>, n.S - k0), packed);
    std::fill(sums, sums + sums_size(), T(0));
    for (int64_t at = part; at < group * blocks; at += parts) {
      int64_t h = g * group + at / blocks, row0 = at % blocks * kRows, row = (b * n.T + row0) * n.H + h;
      BlockData<T> data{.q = q.data<T>() + row * n.D,
                        .out = out.data<T>() + row * n.Dv,
                        .dout = dout.data<T>() + row * n.Dv,
                        .lse = lse.data<T>() + (b * n.H + h) * n.T + row0,
                        .dq = dq.data<T>() + row * n.D};
      run.backward({n, o, b, h, row0, std::min(kRows, n.T - row0)}, data, packed, sums, sums + padded * D, scratch);
    }
  }
  // Rows [from, to) of dk and dv of one key head: the sum over its parts.
  void finish(int64_t head, int64_t parts, const Parts<T>& sums) const {
    int64_t row = head / n.Hkv * n.S * n.Hkv + head % n.Hkv;
    auto add = [&](T* to, int64_t cols, int64_t ld, int64_t offset) {
      for (int64_t p = 0; p < parts; ++p) {
        const T* from = sums.at(head * parts + p) + offset;
        for (int64_t s = 0; s < n.S; ++s) {
          T* x = to + s * n.Hkv * cols;
          for (int64_t d = 0; d < cols; ++d) x[d] = p ? x[d] + from[s * ld + d] : from[s * ld + d];
        }
      }
    };
    add(dk.data<T>() + row * n.D, n.D, D, 0);
    add(dv.data<T>() + row * n.Dv, n.Dv, Dv, padded * D);
  }
};

template <class T>
void backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
              const Tensor& dout, const AttentionOptions& o, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  AttentionShape n = check_attention(q, k, v, o, "fused_attention");
  BackwardCall<T> call{q, k, v, out, lse, dout, o, dq, dk, dv, n, kernels<T>()};
  // A key head is one unit of work; where the threads outnumber the heads, each is done in parts and summed after.
  int64_t heads = n.B * n.Hkv, threads = omp_get_max_threads();
  int64_t parts = heads % threads == 0 ? 1 : (2 * threads + heads - 1) / heads;
  parts = std::clamp<int64_t>(parts, 1, std::max<int64_t>(1, call.group * call.blocks));
  Parts<T> sums(heads * parts, call.sums_size()), packed(threads, call.packed_size());
  Parts<T> scratch(threads, call.run.scratch(n));
#pragma omp parallel if (heads * parts > 1)
  {
    int64_t me = omp_get_thread_num();
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < heads * parts; ++unit)
      call.part(unit / parts, unit % parts, parts, packed.at(me), sums.at(unit), scratch.at(me));
#pragma omp for schedule(static)
    for (int64_t head = 0; head < heads; ++head) call.finish(head, parts, sums);
  }
}

REGISTER_KERNEL(fused_attention_forward, cpu, f32, forward<float>)
REGISTER_KERNEL(fused_attention_forward, cpu, f64, forward<double>)
REGISTER_KERNEL(fused_attention_backward, cpu, f32, backward<float>)
REGISTER_KERNEL(fused_attention_backward, cpu, f64, backward<double>)

}  // namespace
}  // namespace basis::ops
