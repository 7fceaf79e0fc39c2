// Projections of whole heads: q, k, v = x Wq^T, x Wk^T, x Wv^T and out = o Wo^T (Vaswani et al., arXiv 1706.03762),
// dense or by Basis Decomposition (arXiv 2510.01718), Q K and V O each on or off:
//
//   K' = x[S] + x[R] C_k = (K - b_k) T^-1     q' = q T^T       softmax(q' K'^T) = softmax(q K^T): it does not see b_k
//                                                              (mixers that do keep it: K' + b_k T^-1)
//   V' = x[S'] + x[R'] C_v (+ b_v T'^-1)      out' = T' out
//
// S lies at the front and S' at the back of the channels, after a permutation when the basis is pivoted, in which a
// norm before may write x (wanted_order). Or each weight
// is of low rank (see Linear), whose Basis Decomposition reads the first channels of x, and of the heads side by side.
#include "models/attention/attention.h"
#include "models/attention/projection.h"
#include "models/channel_order.h"
#include "ops/linear/linear.h"
#include "ops/view/view.h"

namespace basis::models {
namespace {

class HeadProjector : public Projector {
 public:
  explicit HeadProjector(const ProjectorOptions& o)
      : heads_(o.heads),
        kv_heads_(o.kv_heads),
        head_dim_(o.head_dim),
        is_bd_((o.bd_qk || o.bd_vo) && !o.q_rank.rank && !o.k_rank.rank && !o.v_rank.rank),
        q_(o.channels, o.heads * o.head_dim, o.bias, o.init_std, o.q_rank),
        k_({o.channels, o.kv_heads, o.head_dim}, o.bd_qk, o.qk_back, o.bias && (!o.bd_qk || o.keep_key_bias),
           o.init_std, o.k_rank),
        v_({o.channels, o.kv_heads, o.head_dim}, o.bd_vo, o.vo_back, o.bias, o.init_std, o.v_rank),
        out_(o.heads * o.head_dim, o.channels, o.bias, o.out_init_std, o.out_rank) {
    if (o.permuted) buffer(order_.buffer, "order", {o.channels});
    if (o.out_rank.rank && o.out_rank.bd) buffer(out_order_.buffer, "out_order", {o.heads * o.head_dim});
    child("q", q_);
    child("k", k_);
    child("v", v_);
    child("out", out_);
  }

  Tensor wanted_order(const Pass& pass, const Var& like) const override {
    return writes_weights(pass, like) ? Tensor() : order_.indices();
  }

  QKV qkv(const Pass& pass, const Var& input, const Tensor& order) const override {
    if (writes_weights(pass, input)) {
      auto w = ops::bd_weights(weights(pass), biases(pass), {head_dim_, k_.slice(), v_.slice(), order_.indices()});
      return split(ops::linear_group(input, w.weights, w.biases));
    }
    Var x = order ? input : order_(input);  // [B,T,C]
    if (pass.observe || !q_.full() || !k_.full() || !v_.full()) return split({q_(pass, x), k_(pass, x), v_(pass, x)});
    return split(ops::linear_group(x, weights(pass), biases(pass)));
  }

  Var out(const Pass& pass, const Var& mixed) const override {
    Var heads = ops::view(mixed, {mixed.size(0), mixed.size(1), heads_ * head_dim_});
    return out_(pass, out_order_(heads));  // [B,T,C]
  }

 private:
  // Dense weights are written for this pass, in x's own order of channels.
  bool writes_weights(const Pass& pass, const Var& x) const {
    return !pass.observe && is_bd_ && ops::bd_weights_pay(x, head_dim_, heads_ * head_dim_);
  }
  QKV split(const std::vector<Var>& y) const {
    auto heads = [&](const Var& x, int64_t n) { return ops::view(x, {x.size(0), x.size(1), n, head_dim_}); };
    return {heads(y[0], heads_), heads(y[1], kv_heads_), heads(y[2], kv_heads_)};  // [B,T,H,D]
  }
  std::vector<Var> weights(const Pass& pass) const {
    return {operand(pass, q_.weight), operand(pass, k_.weight), operand(pass, v_.weight)};
  }
  std::vector<Var> biases(const Pass& pass) const {
    return {operand(pass, q_.bias), operand(pass, k_.bias), operand(pass, v_.bias)};
  }

  int64_t heads_, kv_heads_, head_dim_;
  bool is_bd_;                      // of full rank
  ChannelOrder order_, out_order_;  // [C], [H*D]
  Linear q_;
  Projection k_, v_;
  Linear out_;
};

}  // namespace

std::unique_ptr<Projector> make_dense_projector(const ProjectorOptions& options) {
  return std::make_unique<HeadProjector>(options);
}

std::unique_ptr<Projector> make_bd_projector(const ProjectorOptions& options) {
  auto refuse = [](std::string expected, std::string got, std::string remedy) {
    throw core::Error({.where = "attention.projector",
                       .expected = std::move(expected),
                       .got = std::move(got),
                       .remedy = std::move(remedy),
                       .code = core::ExitCode::usage});
  };
  if (options.bd_qk && options.rotary)
    refuse("no Basis Decomposition of QK under rotary positions", "projector bd with qk: true",
           "rotations do not commute with the change of basis: set projector.qk: false and keep vo");
  if (options.head_dim >= options.channels)
    refuse("heads narrower than the model", std::to_string(options.head_dim) + " channels a head", "use more heads");
  if (options.permuted && options.bd_qk && options.bd_vo && 2 * options.head_dim > options.channels)
    refuse("room for two bases side by side", "heads of more than half the channels", "use basis: residual_min");
  return std::make_unique<HeadProjector>(options);
}

}  // namespace basis::models
