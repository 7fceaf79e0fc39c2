// Basis Decomposition of the projections (arXiv 2510.01718), Q K and V O each on or off:
//
//   K' = x[S] + x[R] C_k = (K - b_k) T^-1     q' = q T^T       softmax(q' K'^T) = softmax(q K^T): it does not see b_k
//   V' = x[S'] + x[R'] C_v (+ b_v T'^-1)      out' = T' out
//
// S lies at the front and S' at the back of the channels, after a permutation when the basis is pivoted.
#include "models/attention/attention.h"
#include "models/layers.h"
#include "ops/bd_linear/bd_linear.h"
#include "ops/permute_channels/permute_channels.h"
#include "ops/pointwise/pointwise.h"
#include "ops/view/view.h"

namespace basis::models {
namespace {

// x[S] + x[R] C, with an optional bias: a narrower Linear that reads all of x.
class BdProjection : public Module {
 public:
  BdProjection(const ProjectorOptions& o, bool back, bool bias) : options_{o.head_dim, back} {
    parameter(weight_, "weight", {o.kv_heads * o.head_dim, o.channels - o.head_dim}, Init::normal(o.init_std));
    if (bias) parameter(bias_, "bias", {o.kv_heads * o.head_dim}, Init::zeros());
  }
  Var operator()(const Pass& pass, const Var& x) const {
    Var y = ops::bd_linear(x, operand(pass, weight_), options_);
    return bias_ ? ops::add(y, operand(pass, bias_)) : y;
  }

 private:
  ops::BdOptions options_;
  Var weight_, bias_;
};

class BdProjector : public Projector {
 public:
  explicit BdProjector(const ProjectorOptions& o)
      : heads_(o.heads),
        kv_heads_(o.kv_heads),
        head_dim_(o.head_dim),
        q_(o.channels, o.heads * o.head_dim, o.bias, o.init_std),
        out_(o.heads * o.head_dim, o.channels, o.bias, o.out_init_std) {
    int64_t kv = o.kv_heads * o.head_dim;
    if (o.permuted) buffer(order_, "order", {o.channels});
    child("q", q_);
    if (o.bd_qk) {
      child("k", *(bd_k_ = std::make_unique<BdProjection>(o, o.qk_back, false)));
    } else {
      child("k", *(k_ = std::make_unique<Linear>(o.channels, kv, o.bias, o.init_std)));
    }
    if (o.bd_vo) {
      child("v", *(bd_v_ = std::make_unique<BdProjection>(o, o.vo_back, o.bias)));
    } else {
      child("v", *(v_ = std::make_unique<Linear>(o.channels, kv, o.bias, o.init_std)));
    }
    child("out", out_);
  }

  QKV qkv(const Pass& pass, const Var& input) const override {
    Var x = order_ ? ops::permute_channels(input, order_.value().to(core::DType::i32)) : input;  // [B,T,C]
    Var k = bd_k_ ? (*bd_k_)(pass, x) : (*k_)(pass, x);
    Var v = bd_v_ ? (*bd_v_)(pass, x) : (*v_)(pass, x);
    return {split(q_(pass, x), heads_), split(k, kv_heads_), split(v, kv_heads_)};
  }

  Var out(const Pass& pass, const Var& mixed) const override {
    return out_(pass, ops::view(mixed, {mixed.size(0), mixed.size(1), heads_ * head_dim_}));  // [B,T,C]
  }

 private:
  Var split(const Var& x, int64_t heads) const {
    return ops::view(x, {x.size(0), x.size(1), heads, head_dim_});  // [B,T,H,D]
  }

  int64_t heads_, kv_heads_, head_dim_;
  Var order_;  // [C], whole numbers: the channel that comes j-th; undefined: as they are
  Linear q_, out_;
  std::unique_ptr<BdProjection> bd_k_, bd_v_;
  std::unique_ptr<Linear> k_, v_;
};

}  // namespace

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
  return std::make_unique<BdProjector>(options);
}

}  // namespace basis::models
