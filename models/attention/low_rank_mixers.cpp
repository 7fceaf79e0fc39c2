// Mixers with the masks of arXiv 2405.05219's extensions: linear attention by features, and LongLoRA's shifted groups.
#include <algorithm>
#include <array>

#include "models/attention/mixer_parts.h"
#include "ops/attention_features/attention_features.h"
#include "ops/cast/cast.h"
#include "ops/fused_attention/fused_attention.h"
#include "ops/low_rank_attention/low_rank_attention.h"
#include "ops/shifted_groups/shifted_groups.h"

namespace basis::models {
namespace {

void require_group(const MixerOptions& o) {
  if (o.group < 2 || o.group % 2) refuse("group", "an even number of positions", std::to_string(o.group));
  if (o.heads % 2 || o.kv_heads % 2)
    refuse("type", "an even number of heads, half of them shifted",
           std::to_string(o.heads) + " heads, " + std::to_string(o.kv_heads) + " of keys and values");
}

// softmax's exp(q . k) replaced by phi(q) . phi(k), in time linear in the length. Generation sums over all keys anew
// for each token, as softmax attention does.
class LowRankMixer : public Mixer {
 public:
  explicit LowRankMixer(const MixerOptions& o) : options_(o) {
    if (o.dropout > 0)
      refuse("type", "no dropout on attention probabilities with low_rank, which has no such matrix",
             std::to_string(o.dropout), "set model.dropout: 0");
    if (o.sink > 0) refuse("sink", "0 with low_rank", std::to_string(o.sink), "use type: window for attention sinks");
    if (o.features == "taylor" && o.degree != 1 && o.degree != 2)
      refuse("degree", "1 or 2: of degree p there are C(head_dim + p, p) features", std::to_string(o.degree));
    if (o.features == "random" && o.rank < 1) refuse("rank", "at least 1", std::to_string(o.rank));
    if (o.mask == "window" && o.window < 1) refuse("window", "a width of at least 1", std::to_string(o.window));
    if (o.mask == "window" && !o.causal) refuse("mask", "all or long_lora in a model that sees both ways", "window");
    if (o.mask == "long_lora") require_group(o);
  }

  Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const override {
    ops::FeatureOptions features = features_for(q);
    DType given = q.dtype();
    bool widen = features.kind == ops::Features::random && given == DType::f16;  // exp leaves the range of f16
    auto wide = [&](const Var& x) { return widen ? ops::cast(x, DType::f32) : x; };
    ops::LowRankOptions low{.causal = options_.causal, .key_lengths = pass.key_lengths};
    if (options_.mask != "all") low.mask = mask_for(q.size(1), k.size(1), q.device());
    Var y = ops::low_rank_attention(ops::attention_features(wide(q), features),
                                    ops::attention_features(wide(k), features), wide(v), low);
    return widen ? ops::cast(y, given) : y;
  }

 private:
  ops::FeatureOptions features_for(const Var& q) const {
    if (options_.features == "elu") return {.kind = ops::Features::elu};
    if (options_.features == "taylor") return {.kind = ops::Features::taylor, .degree = int(options_.degree)};
    if (!directions_ || directions_.device() != q.device() || directions_.size(0) != q.size(3))
      directions_ = ops::random_directions(q.size(3), options_.rank, 1).to(q.device());
    return {.kind = ops::Features::random, .directions = directions_};
  }
  // Kept between passes: a training step always asks for the same.
  ops::RowMask mask_for(int64_t rows, int64_t keys, Device device) const {
    if (!mask_ || mask_.rows != rows || mask_.keys != keys || mask_.bits.device() != device)
      mask_ = (options_.mask == "window" ? ops::sliding_rows(options_.window, rows, keys)
                                         : ops::shifted_blocks(options_.group, options_.causal, rows, keys))
                  .to(device);
    return mask_;
  }

  MixerOptions options_;
  mutable Tensor directions_;
  mutable ops::RowMask mask_;
};

// Exact softmax attention within groups of positions, those of half of the heads moved by half a group.
class LongLoraMixer : public Mixer {
 public:
  explicit LongLoraMixer(const MixerOptions& o) : options_(o) {
    require_group(o);
    if (o.window > 0 || o.sink > 0) refuse("type", "no window and no sink with long_lora", "one");
  }

  Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const override {
    if (!pass.cache || pass.cache->length == 0) return grouped(pass, q, k, v);
    // Decoding: the groups of the new positions, from the start of a group that is whole for both kinds of heads.
    int64_t S = k.size(1), first = std::max<int64_t>(0, pass.cache->length / options_.group - 1) * options_.group;
    auto cut = [&](const Var& x) { return Var(x.value().slice(1, first, S)); };
    Tensor y = grouped(pass, cut(q), cut(k), cut(v)).value();
    return Var(y.slice(1, pass.cache->length - first, S - first));
  }
  bool needs_earlier_queries() const override { return true; }

 private:
  Var grouped(const Pass& pass, const Var& q, const Var& k, const Var& v) const {
    int64_t B = q.size(0), T = q.size(1), g = options_.group;
    ops::AttentionOptions a = attention_options(options_, pass);
    // Behind a group's positions are zeros, which causal rows never see.
    if (!a.causal || a.key_lengths) a.key_lengths = ops::group_lengths(a.key_lengths, B, T, g, q.device());
    Var y = ops::fused_attention(ops::split_groups(q, g), ops::split_groups(k, g), ops::split_groups(v, g), a);
    return ops::join_groups(y, B, T);
  }

  MixerOptions options_;
};

}  // namespace

std::unique_ptr<Mixer> make_low_rank_mixer(const MixerOptions& o) { return std::make_unique<LowRankMixer>(o); }
std::unique_ptr<Mixer> make_long_lora_mixer(const MixerOptions& o) { return std::make_unique<LongLoraMixer>(o); }

}  // namespace basis::models
