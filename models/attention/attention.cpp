#include "models/attention/attention.h"

#include <algorithm>

namespace basis::models {
namespace {

// Writes `now` [B,T,H,D] behind the `length` positions already in `kept` and returns all of them, [B, length+T, H, D].
Tensor append(Tensor& kept, const Tensor& now, int64_t length) {
  int64_t need = length + now.size(1);
  if (!kept || kept.size(1) < need) {
    Shape shape = now.shape();
    shape[1] = std::max<int64_t>(64, 2 * need);
    Tensor larger = Tensor::zeros(shape, now.dtype(), now.device());
    if (kept) larger.slice(1, 0, length).copy_from(kept.slice(1, 0, length));
    kept = larger;
  }
  kept.slice(1, length, need).copy_from(now);
  return kept.slice(1, 0, need);
}

}  // namespace

MultiHeadAttention::MultiHeadAttention(std::unique_ptr<Projector> projector, std::unique_ptr<Mixer> mixer,
                                       std::optional<ops::RopeOptions> rope, int layer)
    : projector_(std::move(projector)), mixer_(std::move(mixer)), rope_(rope), layer_(layer) {
  child("", *projector_);
  child("", *mixer_);
}

Var MultiHeadAttention::operator()(const Pass& pass, const Var& x, const Tensor& order) const {
  auto [q, k, v] = projector_->qkv(pass, x, order);  // [B,T,H,D], [B,T,Hkv,D] twice
  if (rope_) {
    ops::RopeOptions rope = *rope_;
    rope.first_position = pass.first_position();
    q = ops::rope(q, rope);
    k = ops::rope(k, rope);
  }
  if (pass.cache) {
    auto& kept = pass.cache->layers.at(size_t(layer_));
    k = Var(append(kept.k, k.value(), pass.cache->length));  // [B,S,Hkv,D]
    v = Var(append(kept.v, v.value(), pass.cache->length));
    if (mixer_->needs_earlier_queries()) q = Var(append(kept.q, q.value(), pass.cache->length));  // [B,S,H,D]
  }
  Var mixed = mixer_->mix(pass, q, k, v);  // [B,T,H,D]
  if (pass.observe_mix) (*pass.observe_mix)(layer_, q, k, v, mixed);
  return projector_->out(pass, mixed);  // [B,T,C]
}

}  // namespace basis::models
