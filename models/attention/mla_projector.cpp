// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). With c = norm(x Wc) and R_t the rotation of
// position t,
//
//   q = (x Wq, R_t x Wq')     k = (c Wk, R_t x Wk')     v = c Wv     (Wk' is shared by all heads)
//
// In Basis Decomposition c takes the place of x: k = c[S] + c[R] C_k and v = c[S'] + c[R'] C_v. An order of c's
// channels costs nothing: it is that of the rows of Wc and of the norm's weight.
#include "models/attention/attention.h"
#include "models/attention/projection.h"
#include "ops/join_heads/join_heads.h"
#include "ops/view/view.h"

namespace basis::models {
namespace {

constexpr double kLatentEps = 1e-6;  // of the latents' norms in DeepSeek-V2, whatever the model's other norms take

// c = norm(x W)                                                         // [B,T,C] -> [B,T,L]
class Latent : public Module {
 public:
  Latent(int64_t channels, int64_t rank, bool bias, double init_std)
      : down_(channels, rank, bias, init_std), norm_(NormType::rms_norm, rank, false, kLatentEps) {
    child("", down_);
    child("norm", norm_);
  }
  Var operator()(const Pass& pass, const Var& x) const { return norm_(pass, down_(pass, x)); }

 private:
  Linear down_;
  Norm norm_;
};

class MlaProjector : public Projector {
 public:
  MlaProjector(const ProjectorOptions& o, const LatentOptions& l)
      : heads_(o.heads),
        latent_(o.channels, l.kv_rank, o.bias, o.init_std),
        q_(l.q_rank ? l.q_rank : o.channels, o.heads * o.head_dim, false, o.init_std),
        q_rope_(l.q_rank ? l.q_rank : o.channels, o.heads * l.rope_dim, false, o.init_std),
        k_rope_(o.channels, l.rope_dim, o.bias, o.init_std),
        k_({l.kv_rank, o.heads, o.head_dim}, o.bd_qk, o.qk_back, false, o.init_std),
        v_({l.kv_rank, o.heads, l.value_dim}, o.bd_vo, o.vo_back, false, o.init_std),
        out_(o.heads * l.value_dim, o.channels, o.bias, o.out_init_std),
        rope_(l.rope) {
    if (l.q_rank) {
      q_latent_ = std::make_unique<Latent>(o.channels, l.q_rank, o.bias, o.init_std);
      child("q_latent", *q_latent_);
    }
    child("q", q_);
    child("q_rope", q_rope_);
    child("latent", latent_);
    child("k_rope", k_rope_);
    child("k", k_);
    child("v", v_);
    child("out", out_);
  }

  QKV qkv(const Pass& pass, const Var& x, const Tensor&) const override {
    ops::RopeOptions rope = rope_;
    rope.first_position = pass.first_position();
    Var from = q_latent_ ? (*q_latent_)(pass, x) : x;                     // [B,T,C] or [B,T,Lq]
    Var c = latent_(pass, x);                                             // [B,T,L]
    Var q_rope = ops::rope(split(q_rope_(pass, from), heads_), rope);     // [B,T,H,R]
    Var k_rope = ops::rope(split(k_rope_(pass, x), 1), rope);             // [B,T,1,R]
    return {.q = ops::join_heads(split(q_(pass, from), heads_), q_rope),  // [B,T,H,D+R]
            .k = ops::join_heads(split(k_(pass, c), heads_), k_rope),     // [B,T,H,D+R]
            .v = split(v_(pass, c), heads_)};                             // [B,T,H,Dv]
  }

  Var out(const Pass& pass, const Var& mixed) const override {
    return out_(pass, ops::view(mixed, {mixed.size(0), mixed.size(1), heads_ * mixed.size(3)}));  // [B,T,C]
  }

 private:
  static Var split(const Var& x, int64_t heads) {
    return ops::view(x, {x.size(0), x.size(1), heads, x.size(2) / heads});
  }

  int64_t heads_;
  std::unique_ptr<Latent> q_latent_;
  Latent latent_;
  Linear q_, q_rope_, k_rope_;
  Projection k_, v_;
  Linear out_;
  ops::RopeOptions rope_;
};

}  // namespace

std::unique_ptr<Projector> make_mla_projector(const ProjectorOptions& o, const LatentOptions& l) {
  auto refuse = [](std::string expected, std::string got, std::string remedy) {
    throw core::Error({.where = "attention.projector",
                       .expected = std::move(expected),
                       .got = std::move(got),
                       .remedy = std::move(remedy),
                       .code = core::ExitCode::usage});
  };
  int64_t qk = o.bd_qk ? o.head_dim : 0, vo = o.bd_vo ? l.value_dim : 0;
  if (qk >= l.kv_rank || vo >= l.kv_rank)
    refuse("heads narrower than the latent", std::to_string(std::max(qk, vo)) + " channels a head",
           "set model.kv_lora_rank above that, or projector.type: dense");
  if (o.permuted && qk + vo > l.kv_rank)
    refuse("room for two bases side by side in the latent", std::to_string(qk + vo) + " channels",
           "use basis: residual_min");
  if (o.heads != o.kv_heads)
    refuse("a key head for each query head", std::to_string(o.kv_heads) + " key heads", "set model.n_kv_head: 0");
  return std::make_unique<MlaProjector>(o, l);
}

}  // namespace basis::models
