#include <algorithm>
#include <vector>

#include "core/gemm/gemm.h"
#include "core/parallel.h"
#include "ops/low_rank_attention/low_rank_attention.h"

namespace basis::ops {
namespace {

// How many units of so many operations are worth a thread.
int64_t grain(int64_t work) { return std::max<int64_t>(1, (1 << 19) / std::max<int64_t>(1, work)); }

template <class T>
void pack(const Tensor& x, const Tensor& lengths, int64_t front, bool ones, const Tensor& packed) {
  int64_t N = x.size(1), H = x.size(2), w = x.size(3), long_n = packed.size(1), width = packed.size(2);
  core::parallel_for(packed.size(0), grain(16 * long_n * width), [&](int64_t begin, int64_t end) {
    for (int64_t z = begin; z < end; ++z) {
      int64_t b = z / H, keys = lengths ? std::clamp<int64_t>(lengths.data<int32_t>()[b], 0, N) : N;
      T* to = packed.data<T>() + z * long_n * width;
      std::fill(to, to + long_n * width, T(0));
      for (int64_t i = 0; i < keys; ++i) {
        std::copy_n(x.data<T>() + ((b * N + i) * H + z % H) * w, w, to + (front + i) * width);
        if (ones) to[(front + i) * width + w] = 1;
      }
    }
  });
}

template <class T>
void unpack(const Tensor& packed, const Tensor& lengths, int64_t front, const Tensor& x) {
  int64_t N = x.size(1), H = x.size(2), w = x.size(3), long_n = packed.size(1);
  int64_t group = packed.size(0) / (x.size(0) * H);
  core::parallel_for(x.size(0) * N, grain(16 * H * w), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t b = row / N, i = row % N, keys = lengths ? lengths.data<int32_t>()[b] : N;
      T* to = x.data<T>() + row * H * w;
      std::fill(to, to + H * w, T(0));
      if (i >= keys) continue;
      for (int64_t h = 0; h < H * group; ++h) {
        const T* from = packed.data<T>() + ((b * H * group + h) * long_n + front + i) * w;
        for (int64_t c = 0; c < w; ++c) to[h / group * w + c] += from[c];
      }
    }
  });
}

template <class T>
void divide(const Tensor& sums, int64_t front, const Tensor& o, const Tensor& mass) {
  int64_t N = o.size(1), H = o.size(2), w = o.size(3), long_n = sums.size(1);
  core::parallel_for(sums.size(0), grain(16 * N * w), [&](int64_t begin, int64_t end) {
    for (int64_t z = begin; z < end; ++z)
      for (int64_t i = 0; i < N; ++i) {
        const T* n = sums.data<T>() + (z * long_n + front + i) * (w + 1);
        T* y = o.data<T>() + ((z / H * N + i) * H + z % H) * w;
        mass.data<T>()[z * N + i] = n[w];
        for (int64_t c = 0; c < w; ++c) y[c] = n[w] != 0 ? n[c] / n[w] : T(0);
      }
  });
}

template <class T>
void gradient(const Tensor& dout, const Tensor& o, const Tensor& mass, int64_t front, const Tensor& g) {
  int64_t N = o.size(1), H = o.size(2), w = o.size(3), long_n = g.size(1);
  core::parallel_for(g.size(0), grain(16 * N * w), [&](int64_t begin, int64_t end) {
    for (int64_t z = begin; z < end; ++z) {
      T* to = g.data<T>() + z * long_n * (w + 1);
      std::fill(to, to + long_n * (w + 1), T(0));
      for (int64_t i = 0; i < N; ++i) {
        T m = mass.data<T>()[z * N + i];
        if (m == 0) continue;
        const T* dy = dout.data<T>() + ((z / H * N + i) * H + z % H) * w;
        const T* y = o.data<T>() + ((z / H * N + i) * H + z % H) * w;
        T *row = to + (front + i) * (w + 1), dot = 0;
        for (int64_t c = 0; c < w; ++c) row[c] = dy[c] / m, dot += dy[c] * y[c];
        row[w] = -dot / m;
      }
    }
  });
}

// c [m, n] += op(a) [m, k] b [k, n], rows of a and b at these strides.
template <class T>
void add_product(bool trans_a, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
                 T* c) {
  core::gemm(
      {.trans_a = trans_a, .m = m, .n = n, .k = k, .a = a, .b = b, .c = c, .lda = lda, .ldb = ldb, .ldc = n, .beta = 1},
      core::dtype_of<T>(), core::cpu);
}

// The sums of one head: running ones (slot c: all before, transposed all from c on), or a segment tree.
template <class T>
void make_states(const Visible& v, const T* x, const T* y, int64_t r, int64_t m, int64_t y_width, T* states) {
  int64_t size = r * m, slots = v.slots();
  std::fill(states, states + slots * size, T(0));
  auto add = [&](int64_t slot, int64_t from) {
    for (int64_t e = 0; e < size; ++e) states[slot * size + e] += states[from * size + e];
  };
  if (v.kind == Visible::Kind::lists) {
    for (int64_t t = 0; t < v.other; ++t)
      add_product(true, r, m, kMaskTile, x + t * kMaskTile * r, r, y + t * kMaskTile * y_width, y_width,
                  states + (v.other + t) * size);
    for (int64_t node = v.other - 1; node >= 1; --node) add(node, 2 * node), add(node, 2 * node + 1);
    return;
  }
  bool backward = v.transposed && v.kind == Visible::Kind::causal;
  for (int64_t step = 0; step + 1 < slots; ++step) {
    int64_t c = backward ? slots - 2 - step : step, to = backward ? c : c + 1, first = c * v.stride * kMaskTile;
    add(to, backward ? c + 1 : c);
    add_product(true, r, m, std::min(v.stride * kMaskTile, v.other * kMaskTile - first), x + first * r, r,
                y + first * y_width, y_width, states + to * size);
  }
}

template <class T>
void product(const Visible& v, const Tensor& ta, const Tensor& tx, const Tensor& ty, const Tensor& states,
             const Tensor& out) {
  int64_t r = ta.size(2), m = out.size(2), y_width = ty.size(2), heads = out.size(0), x_heads = tx.size(0);
  int64_t size = r * m, slots = v.slots(), long_x = tx.size(1);
  core::parallel_for(x_heads, grain(long_x * size), [&](int64_t begin, int64_t end) {
    for (int64_t z = begin; z < end; ++z)
      make_states(v, tx.data<T>() + z * long_x * r, ty.data<T>() + z * long_x * y_width, r, m, y_width,
                  states.data<T>() + z * slots * size);
  });
  core::parallel_for(heads * v.tiles, grain(kMaskTile * (size + kMaskTile * (r + m))), [&](int64_t begin, int64_t end) {
    std::vector<T> sum(static_cast<size_t>(size)), weights(kMaskTile * kMaskTile);
    for (int64_t unit = begin; unit < end; ++unit) {
      int64_t z = unit / v.tiles, t = unit % v.tiles, zx = z / (heads / x_heads), za = z / (heads / ta.size(0));
      const T* a = ta.data<T>() + (za * ta.size(1) + t * kMaskTile) * r;
      T* o = out.data<T>() + unit * kMaskTile * m;
      std::fill(o, o + kMaskTile * m, T(0));
      Span nodes = v.nodes(z, t), squares = v.squares(z, t);
      std::fill(sum.begin(), sum.end(), T(0));
      for (int64_t e = nodes.begin; e < nodes.end; ++e) {
        const T* node = states.data<T>() + (zx * slots + v.node(e)) * size;
        for (int64_t c = 0; c < size; ++c) sum[size_t(c)] += node[c];
      }
      if (nodes.begin < nodes.end) add_product(false, kMaskTile, m, r, a, r, sum.data(), m, o);
      for (int64_t e = squares.begin; e < squares.end; ++e) {
        const T* x = tx.data<T>() + (zx * long_x + v.tile(e) * kMaskTile) * r;
        const T* y = ty.data<T>() + (zx * long_x + v.tile(e) * kMaskTile) * y_width;
        core::gemm({.trans_b = true,
                    .m = kMaskTile,
                    .n = kMaskTile,
                    .k = r,
                    .a = a,
                    .b = x,
                    .c = weights.data(),
                    .lda = r,
                    .ldb = r,
                    .ldc = kMaskTile},
                   core::dtype_of<T>(), core::cpu);
        for (int64_t i = 0; i < kMaskTile; ++i)
          for (int64_t j = 0; j < kMaskTile; ++j)
            if (!v.sees(e, t, i, j)) weights[size_t(i * kMaskTile + j)] = 0;
        add_product(false, kMaskTile, m, kMaskTile, weights.data(), kMaskTile, y, y_width, o);
      }
    }
  });
}

template <class T>
bool add_kernels() {
  constexpr DType dtype = core::dtype_of<T>();
  return low_rank_pack.set(DeviceType::cpu, dtype, pack<T>) && low_rank_unpack.set(DeviceType::cpu, dtype, unpack<T>) &&
         low_rank_divide.set(DeviceType::cpu, dtype, divide<T>) &&
         low_rank_gradient.set(DeviceType::cpu, dtype, gradient<T>) &&
         low_rank_product.set(DeviceType::cpu, dtype, product<T>);
}
[[maybe_unused]] const bool registered = add_kernels<double>() && add_kernels<float>();

}  // namespace
}  // namespace basis::ops
