// s = scale q k^T,  p = softmax over visible keys,  o = (p m) v     m: dropout factor
// dv = (p m)^T do    dp = (do v^T) m    ds = p (dp - sum_j p dp)    dq = scale ds k    dk = scale ds^T q
#include "ops/naive_attention/naive_attention.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {

struct NaiveAttention {
  static constexpr std::string_view name = "naive_attention";
  using Attrs = AttentionOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& q, const Tensor& k, const Tensor& v) {
    AttentionShape n = check_attention(q, k, v, a, name);
    Tensor o = Tensor::empty({n.B, n.T, n.H, n.Dv}, q.dtype(), q.device());
    Tensor p = Tensor::empty({n.B, n.H, n.T, n.S}, q.dtype() == DType::f64 ? DType::f64 : DType::f32, q.device());
    if (o.numel()) naive_attention_forward(q.device().type, q.dtype(), q, k, v, a, o, p);
    ctx.save({q, k, v, p});
    return o;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dout) {
    const Tensor &q = ctx.saved(0), &k = ctx.saved(1), &v = ctx.saved(2);
    Tensor dq = q.empty_like(), dk = k.empty_like(), dv = v.empty_like();
    if (dout.numel()) {
      naive_attention_backward(q.device().type, q.dtype(), q, k, v, a, ctx.saved(3), dout, dq, dk, dv);
    } else {
      for (const Tensor& t : {dq, dk, dv}) core::fill(t, 0);
    }
    return {dq, dk, dv};
  }

  static std::vector<Sample<NaiveAttention>> samples() { return attention_samples<NaiveAttention>(); }
  static std::vector<ErrorSample<NaiveAttention>> error_samples() { return attention_error_samples<NaiveAttention>(); }
};
REGISTER_OP(NaiveAttention)

Var naive_attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options) {
  return autograd::apply<NaiveAttention>(options, q, k, v);
}

}  // namespace basis::ops
