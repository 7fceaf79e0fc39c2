// The reference: row by row from the definition, on the CPU (other devices by way of it), in f64 or f32. No op of the
// registry, because its kernels exist on one device only; the fused op's checks compare with it.
#include "core/basic/basic.h"
#include "ops/conv_basis/conv_basis.h"
#include "ops/conv_basis/head_cpu.h"

namespace basis::ops {
namespace {

struct ConvBasisNaive {
  static constexpr std::string_view name = "conv_basis_naive";
  using Attrs = ConvBasisOptions;

  template <class F>
  static void for_heads(const ConvBasisShape& n, F&& f) {
    for (int64_t b = 0; b < n.B; ++b)
      for (int64_t h = 0; h < n.H; ++h) f(b, h);
  }

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& q, const Tensor& k, const Tensor& v) {
    ConvBasisShape n = check_conv_basis(q, k, v, a, name);
    Attrs here = a.to(cpu);
    DType work = q.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Tensor x = q.to(cpu).to(work), y = k.to(cpu).to(work), z = v.to(cpu).to(work);
    Tensor o = Tensor::empty({n.B, n.rows, n.H, n.Dv}, work), p = Tensor::zeros({n.B, n.H, n.T, n.T}, work);
    auto run = [&]<class T>(std::type_identity<T>) {
      for_heads(n, [&](int64_t b, int64_t h) {
        Head<T> head(x, y, z, here, n, b, h);
        for (int64_t i = n.T - n.rows; i < n.T; ++i)
          head.direct_row(i, p.data<T>() + ((b * n.H + h) * n.T + i) * n.T,
                          o.data<T>() + ((b * n.rows + i - n.T + n.rows) * n.H + h) * n.Dv);
      });
    };
    work == DType::f64 ? run(std::type_identity<double>{}) : run(std::type_identity<float>{});
    ctx.save({q, k, v, x, y, z, p});
    return o.to(q.dtype()).to(q.device());
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dout) {
    const Tensor &q = ctx.saved(0), &x = ctx.saved(3), &y = ctx.saved(4), &z = ctx.saved(5), &p = ctx.saved(6);
    ConvBasisShape n = check_conv_basis(q, ctx.saved(1), ctx.saved(2), a, name);
    Attrs here = a.to(cpu);
    Tensor dx = Tensor::zeros(x.shape(), x.dtype()), dy = Tensor::zeros(y.shape(), x.dtype()),
           dz = Tensor::zeros(z.shape(), x.dtype()), go = dout.to(cpu).to(x.dtype());
    auto run = [&]<class T>(std::type_identity<T>) {
      for_heads(n, [&](int64_t b, int64_t h) {
        Head<T> head(x, y, z, here, n, b, h);
        T *dq = dx.data<T>() + (head.q - x.data<T>()), *dk = dy.data<T>() + (head.k - y.data<T>()),
          *dv = dz.data<T>() + (head.v - z.data<T>());
        std::vector<T> dp(static_cast<size_t>(n.T));
        for (int64_t i = 0; i < n.T; ++i) {
          const T* row = p.data<T>() + ((b * n.H + h) * n.T + i) * n.T;
          const T* g = go.data<T>() + ((b * n.T + i) * n.H + h) * n.Dv;
          T mean = 0;
          for (int64_t j = 0; j < head.last_key(i); ++j) {
            T sum = 0;
            for (int64_t d = 0; d < n.Dv; ++d) {
              sum += g[d] * head.value(j)[d];
              dv[j * n.Hkv * n.Dv + d] += row[j] * g[d];
            }
            mean += row[j] * (dp[size_t(j)] = sum);
          }
          for (int64_t j = 0; j < head.last_key(i); ++j) {  // the pair of positions whose score this logit is
            int64_t s = head.partition.starts[size_t(head.partition.segment[size_t(j <= i ? j : i)])];
            int64_t qi = head.near(i, j) ? i
                         : j <= i        ? s + i - j
                                         : s,
                    kj = head.near(i, j) ? j
                         : j <= i        ? s
                                         : s + j - i;
            T ds = T(n.scale) * row[j] * (dp[size_t(j)] - mean);
            for (int64_t d = 0; d < n.D; ++d) {
              dq[qi * n.H * n.D + d] += ds * head.key(kj)[d];
              dk[kj * n.Hkv * n.D + d] += ds * head.query(qi)[d];
            }
          }
        }
      });
    };
    x.dtype() == DType::f64 ? run(std::type_identity<double>{}) : run(std::type_identity<float>{});
    auto back = [&](const Tensor& t) { return t.to(q.dtype()).to(q.device()); };
    return {back(dx), back(dy), back(dz)};
  }
};

}  // namespace

Var conv_basis_naive(const Var& q, const Var& k, const Var& v, const ConvBasisOptions& options) {
  return autograd::apply<ConvBasisNaive>(options, q, k, v);
}

}  // namespace basis::ops
