#include "ops/composite/conv_basis_difference.h"

#include <cmath>

#include "ops/conv_basis/head_cpu.h"
#include "ops/toeplitz/toeplitz.h"

namespace basis::ops {

Tensor conv_basis_difference_form(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& options) {
  constexpr std::string_view name = "conv_basis_difference_form";
  ConvBasisOptions o = options.to(cpu);
  Tensor x = q.to(cpu).to(DType::f64), y = k.to(cpu).to(DType::f64), z = v.to(cpu).to(DType::f64);
  ConvBasisShape n = check_conv_basis(x, y, z, o, name);
  require(o.causal && o.window == 0 && !o.key_lengths && o.rows == 0, name,
          "causal attention without window or padding", "other options");
  autograd::NoGrad no_grad;
  Tensor out = Tensor::zeros({n.B, n.T, n.H, n.Dv}, DType::f64);
  for (int64_t unit = 0; unit < n.B * n.H; ++unit) {
    int64_t b = unit / n.H, h = unit % n.H, channels = n.Dv + 1;
    Head<double> head(x, y, z, o, n, b, h);
    head.score_segments();
    const auto& starts = head.partition.starts;
    Tensor values = Tensor::full({n.T, channels}, 1, DType::f64);
    for (int64_t j = 0; j < n.T; ++j) std::copy_n(head.value(j), n.Dv, values.data<double>() + j * channels);
    std::vector<double> sums(size_t(n.T * channels), 0.0);
    for (size_t r = 0; r < starts.size(); ++r) {
      int64_t m = n.T - starts[r];
      std::vector<double> base(size_t(n.T), 0.0);
      auto u = [&](size_t s, int64_t lag) { return head.low.data<double>()[int64_t(s) * n.T + starts[s] + lag]; };
      for (int64_t l = 0; l < m; ++l) base[size_t(l)] = std::exp(u(r, l)) - (r ? std::exp(u(r - 1, l)) : 0.0);
      auto term = toeplitz(Var(Tensor::from(base, {n.T})), Var(values), {.m = m}).value().to_vector<double>();
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += term[i];
    }
    for (int64_t i = 0; i < n.T; ++i)
      for (int64_t d = 0; d < n.Dv; ++d)
        out.data<double>()[((b * n.T + i) * n.H + h) * n.Dv + d] =
            sums[size_t(i * channels + d)] / sums[size_t(i * channels + n.Dv)];
  }
  return out;
}

}  // namespace basis::ops
