// Attention has two axes: how queries, keys and values are made from x (Projector), and how values are mixed over time
// (Mixer). Every combination works without further code.
//
//   attention(x) = out(mix(q, k, v)),   q, k, v = qkv(x)
//
// Shapes: x [B,T,C]; q [B,T,H,D]; k, v [B,S,Hkv,D]; Hkv divides H (grouped-query attention, arXiv 2305.13245).
#pragma once

#include <memory>
#include <optional>

#include "models/layers.h"
#include "models/module.h"
#include "models/pass.h"
#include "ops/rope/rope.h"

namespace basis::models {

struct QKV {
  Var q, k, v;
};

struct Projector : Module {
  // [B,T,C] -> heads; x's channels as they are, or already in wanted_order(), given as `order`
  virtual QKV qkv(const Pass& pass, const Var& x, const Tensor& order = {}) const = 0;
  // The order [C] of channels in which qkv reads an input like this one, which whoever makes it may write for nothing;
  // undefined: as they are.
  virtual Tensor wanted_order(const Pass&, const Var&) const { return {}; }
  virtual Var out(const Pass& pass, const Var& mixed) const = 0;  // [B,T,H,D] -> [B,T,C]
};

struct Mixer : Module {
  virtual Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const = 0;  // -> [B,T,H,D]
  // With a cache: whether q arrives with the earlier positions' queries too, [B,S,H,D]; the result is [B,T,H,D] still.
  virtual bool needs_earlier_queries() const { return false; }
};

struct ProjectorOptions {
  int64_t channels, heads, kv_heads, head_dim;
  bool bias;
  double init_std, out_init_std;
  bool rotary = false;  // q and k are rotated by position
  // Basis Decomposition: of which pairs, and where in the channels the shared slices lie, after a permutation or not.
  bool bd_qk = false, bd_vo = false, qk_back = false, vo_back = true, permuted = false;
  bool keep_key_bias = false;  // in Basis Decomposition too: the mixer sees it (sees_key_bias)
  LowRank q_rank = {}, k_rank = {}, v_rank = {}, out_rank = {};
};
// Heads of full rank, or each weight of its own low rank.
std::unique_ptr<Projector> make_dense_projector(const ProjectorOptions& options);
// Throws core::Error (usage) where Basis Decomposition is not exact: QK under rotary positions, heads as wide as x.
std::unique_ptr<Projector> make_bd_projector(const ProjectorOptions& options);

// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values are read from a normalised latent, and
// positions rotate a separate part of the queries and one key part that all heads share.
struct LatentOptions {
  int64_t kv_rank, q_rank;      // channels of the latents; q_rank 0: queries come from x itself
  int64_t rope_dim, value_dim;  // a head has head_dim + rope_dim channels in q and k, value_dim in v
  ops::RopeOptions rope;
};
// Rotates by itself: qkv gives q and k [B,T,H,head_dim + rope_dim], v [B,T,H,value_dim]. Basis Decomposition acts on
// the unrotated part of k and on v, whose input is the latent. Throws core::Error (usage) where that is not narrower.
std::unique_ptr<Projector> make_mla_projector(const ProjectorOptions& options, const LatentOptions& latent);

struct MixerOptions {
  std::string type = "fused";  // naive | fused | window | conv_basis | low_rank | long_lora | check | topk
  bool causal = true;
  int64_t window = 0, sink = 0;
  double dropout = 0;
  int64_t k = 16, max_seq_len = 0;      // conv_basis: a breakpoint every ceil(max_seq_len / k) positions
  std::string tile = "auto";            // conv_basis: positions of an FFT tile
  std::string breakpoints = "uniform";  // or recover, with ops::RecoverOptions' window (probe), delta and epsilon;
                                        // staggered or learned, with ops::PlaceOptions; given, at `positions`
  std::vector<double> positions;
  int64_t key_heads = 0, key_dim = 0;  // learned: extents of k
  int64_t burst = 0;                   // learned: breakpoints allowed at once
  int64_t probe = 8;
  double delta = 1, epsilon = 0;
  bool paper_gradient = false;                           // conv_basis: ops/conv_basis/paper_gradient.h
  std::string features = "elu", mask = "all";            // low_rank: ops/attention_features; all, window or long_lora
  int64_t degree = 2, rank = 128;                        // low_rank: of taylor, and how many random features
  int64_t group = 0, heads = 2, kv_heads = 2;            // long_lora: positions of a group
  std::string reference = "naive", candidate = "fused";  // of `check`
};
// Throws core::Error (usage) for an unknown type, a window without a width, or what conv_basis, low_rank or
// long_lora cannot honour.
std::unique_ptr<Mixer> make_mixer(const MixerOptions& options);
// Whether a key bias changes what is mixed: it adds one number to a row of q k^T, which softmax over that row does not
// see, but to shifted columns and to polynomials of logits it is not one number a row.
bool sees_key_bias(const MixerOptions& options);
// Whether the mixer depends on q and k through q . k alone, which Basis Decomposition of QK leaves as it is.
bool mixes_by_products(const MixerOptions& options);
// Softmax over the k largest logits of each row, on the host and without a gradient: what an approximation with k
// entries a row can reach at best, for `eval --approximate`.
std::unique_ptr<Mixer> make_topk_mixer(const MixerOptions& options);

class MultiHeadAttention : public Module {
 public:
  MultiHeadAttention(std::unique_ptr<Projector> projector, std::unique_ptr<Mixer> mixer,
                     std::optional<ops::RopeOptions> rope, int layer);
  Var operator()(const Pass& pass, const Var& x, const Tensor& order = {}) const;  // [B,T,C] -> [B,T,C]; see qkv
  Tensor wanted_order(const Pass& pass, const Var& like) const { return projector_->wanted_order(pass, like); }
  const Projector& projector() const { return *projector_; }

 private:
  std::unique_ptr<Projector> projector_;
  std::unique_ptr<Mixer> mixer_;
  std::optional<ops::RopeOptions> rope_;
  int layer_;  // its place in the key-value cache
};

}  // namespace basis::models
