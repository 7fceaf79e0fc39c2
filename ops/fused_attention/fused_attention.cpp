// Forward, per query tile, over key tiles:  m' = max(m, rowmax s),  l' = l e^(m-m') + sum e^(s-m'),  o' = o e^(m-m') +
// e^(s-m') v Backward, per pair of tiles:  p = e^(s - lse),  dv += (p m)^T do,  ds = p ((do v^T) m - <do, o>),
//                               dq += scale ds k,  dk += scale ds^T q
#include "ops/fused_attention/fused_attention.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {

namespace {
const AttentionEngine* engine = nullptr;

const AttentionEngine* engine_for(const Tensor& q) { return q.device().is_cuda() ? engine : nullptr; }
}  // namespace

const AttentionEngine* attention_engine() { return engine; }
bool set_attention_engine(const AttentionEngine* e) {
  engine = e;
  return true;
}

struct FusedAttention {
  static constexpr std::string_view name = "fused_attention";
  using Attrs = AttentionOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& q, const Tensor& k, const Tensor& v) {
    AttentionShape n = check_attention(q, k, v, a, name);
    Tensor o = Tensor::empty({n.B, n.T, n.H, n.Dv}, q.dtype(), q.device());
    Tensor lse = Tensor::empty({n.B, n.H, n.T}, q.dtype() == DType::f64 ? DType::f64 : DType::f32, q.device());
    const AttentionEngine* e = engine_for(q);
    if (o.numel() && !(e && e->forward(q, k, v, a, o, lse)))
      fused_attention_forward(q.device().type, q.dtype(), q, k, v, a, o, lse);
    ctx.save({q, k, v, o, lse});
    return o;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dout) {
    const Tensor &q = ctx.saved(0), &k = ctx.saved(1), &v = ctx.saved(2);
    Tensor dq, dk, dv;
    if (q.shape() == k.shape() && q.shape() == v.shape() && q.bytes() % 256 == 0) {
      // In one block: the projections' gradients are then one batched product (ops/linear).
      Tensor all = Tensor::empty({3, q.size(0), q.size(1), q.size(2), q.size(3)}, q.dtype(), q.device());
      auto part = [&](int64_t i) { return all.slice(0, i, i + 1).view(q.shape()); };
      dq = part(0), dk = part(1), dv = part(2);
    } else {
      dq = q.empty_like(), dk = k.empty_like(), dv = v.empty_like();
    }
    const Tensor &o = ctx.saved(3), &lse = ctx.saved(4);
    const AttentionEngine* e = engine_for(q);
    if (!dout.numel()) {
      for (const Tensor& t : {dq, dk, dv}) core::fill(t, 0);
    } else if (!(e && e->backward(q, k, v, o, lse, dout, a, dq, dk, dv))) {
      fused_attention_backward(q.device().type, q.dtype(), q, k, v, o, lse, dout, a, dq, dk, dv);
    }
    return {dq, dk, dv};
  }

  static std::vector<Sample<FusedAttention>> samples() { return attention_samples<FusedAttention>(); }
  static std::vector<ErrorSample<FusedAttention>> error_samples() { return attention_error_samples<FusedAttention>(); }
};
REGISTER_OP(FusedAttention)

Var fused_attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options) {
  return autograd::apply<FusedAttention>(options, q, k, v);
}

}  // namespace basis::ops
