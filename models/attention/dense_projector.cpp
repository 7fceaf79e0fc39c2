#include "models/attention/attention.h"
#include "models/layers.h"
#include "ops/view/view.h"

namespace basis::models {
namespace {

// q, k, v = x Wq^T, x Wk^T, x Wv^T;  out = o Wo^T  (Vaswani et al., arXiv 1706.03762)
class DenseProjector : public Projector {
 public:
  explicit DenseProjector(const ProjectorOptions& o)
      : heads_(o.heads),
        kv_heads_(o.kv_heads),
        head_dim_(o.head_dim),
        q_(o.channels, o.heads * o.head_dim, o.bias, o.init_std),
        k_(o.channels, o.kv_heads * o.head_dim, o.bias, o.init_std),
        v_(o.channels, o.kv_heads * o.head_dim, o.bias, o.init_std),
        out_(o.heads * o.head_dim, o.channels, o.bias, o.out_init_std) {
    child("q", q_);
    child("k", k_);
    child("v", v_);
    child("out", out_);
  }

  QKV qkv(const Pass& pass, const Var& x) const override {
    return {split(q_(pass, x), heads_), split(k_(pass, x), kv_heads_), split(v_(pass, x), kv_heads_)};
  }

  Var out(const Pass& pass, const Var& mixed) const override {
    return out_(pass, ops::view(mixed, {mixed.size(0), mixed.size(1), heads_ * head_dim_}));  // [B,T,C]
  }

 private:
  Var split(const Var& x, int64_t heads) const {
    return ops::view(x, {x.size(0), x.size(1), heads, head_dim_});  // [B,T,H,D]
  }

  int64_t heads_, kv_heads_, head_dim_;
  Linear q_, k_, v_, out_;
};

}  // namespace

std::unique_ptr<Projector> make_dense_projector(const ProjectorOptions& options) {
  return std::make_unique<DenseProjector>(options);
}

}  // namespace basis::models
