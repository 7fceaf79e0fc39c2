// What softmax attention is asked to do, shared by the naive and the fused op, and the geometry of its masks.
//
//   o[b,i,h] = sum_j p_ij v[b,j,g],  p = softmax over the visible j of scale q[b,i,h] . k[b,j,g],  g = h Hkv / H
//
// q [B,T,H,D], k [B,S,Hkv,D], v [B,S,Hkv,Dv], Hkv divides H, S >= T: the queries are the last T of S positions.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "ops/common/check.h"

namespace basis::ops {

struct AttentionOptions {
  bool causal = true;  // query i (position i + S - T) sees keys up to its own position
  int64_t window = 0;  // > 0: sees only keys nearer than this (|distance| < window)
  int64_t sink = 0;    // the first keys stay visible whatever the window (arXiv 2309.17453)
  double scale = 0;    // 0: 1 / sqrt(D)
  Tensor key_lengths;  // [B] i32 or undefined: keys from this index on are padding
  double dropout = 0;  // on the probabilities, kept ones scaled by 1 / (1 - dropout)
  uint64_t seed = 0,
           stream = 0;  // element (b,h,i,j) takes word n % 4 of philox(seed, stream, n / 4), n its linear index
  const uint64_t* base = nullptr;  // on q's device: added to stream

  AttentionOptions to(Device device) const {
    AttentionOptions o = *this;
    o.key_lengths = key_lengths.to(device);
    return o;
  }
};

// The keys one query sees: [0, sink) and [low, high), with sink <= low or the two overlapping.
struct VisibleKeys {
  int64_t sink, low, high;
  BASIS_HOST_DEVICE bool contains(int64_t j) const { return j < sink || (j >= low && j < high); }
};

// `position` is the query's own index among the `keys` (already limited by key_lengths).
BASIS_HOST_DEVICE inline VisibleKeys visible_keys(bool causal, int64_t window, int64_t sink, int64_t position,
                                                  int64_t keys) {
  int64_t high = causal ? position + 1 : keys;
  if (!causal && window > 0 && position + window < high) high = position + window;
  if (high > keys) high = keys;
  int64_t low = window > 0 && position - window + 1 > 0 ? position - window + 1 : 0;
  int64_t sink_end = window > 0 ? sink : 0, limit = causal && position + 1 < keys ? position + 1 : keys;
  if (sink_end > limit) sink_end = limit;
  return {sink_end, low, high};
}

// Keep-factor of one probability under dropout: 0 or 1 / (1 - p).
BASIS_HOST_DEVICE inline float dropout_factor(double p, uint64_t seed, uint64_t stream, uint64_t index) {
  core::Philox4 r = core::philox(seed, stream, index / 4);
  uint32_t word = index % 4 == 0 ? r.x : index % 4 == 1 ? r.y : index % 4 == 2 ? r.z : r.w;
  return core::uniform_from_bits(word) >= float(p) ? float(1 / (1 - p)) : 0.0f;
}

// The extents of one call, checked.
struct AttentionShape {
  int64_t B, T, S, H, Hkv, D, Dv;
  double scale;
};

inline AttentionShape check_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o,
                                      std::string_view op) {
  require_float(q, op);
  bool ok = k.defined() && v.defined() && q.dim() == 4 && k.dim() == 4 && v.dim() == 4 && q.dtype() == k.dtype() &&
            q.dtype() == v.dtype() && q.device() == k.device() && q.device() == v.device() && q.size(0) == k.size(0) &&
            q.size(0) == v.size(0) && k.size(1) == v.size(1) && k.size(2) == v.size(2) && q.size(3) == k.size(3) &&
            k.size(2) > 0 && q.size(2) % k.size(2) == 0 && k.size(1) >= q.size(1);
  require(ok, op, "q [B,T,H,D], k [B,S,Hkv,D], v [B,S,Hkv,Dv] with H a multiple of Hkv and S >= T",
          describe(q) + ", " + describe(k) + ", " + describe(v));
  require(o.window >= 0 && o.sink >= 0 && o.dropout >= 0 && o.dropout < 1, op, "window, sink >= 0, dropout in [0, 1)",
          std::to_string(o.window) + ", " + std::to_string(o.sink) + ", " + std::to_string(o.dropout));
  if (o.key_lengths)
    require(o.key_lengths.shape() == Shape{q.size(0)} && o.key_lengths.dtype() == DType::i32 &&
                o.key_lengths.device() == q.device() && o.key_lengths.is_contiguous(),
            op, "key_lengths i32 [B]", describe(o.key_lengths));
  double scale = o.scale != 0 ? o.scale : 1 / std::sqrt(double(std::max<int64_t>(1, q.size(3))));
  return {q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3), v.size(3), scale};
}

// The inputs that both attention ops are checked on.
template <class Op>
std::vector<Sample<Op>> attention_samples() {
  auto lengths = [](std::vector<int32_t> v) { return Tensor::from(v, {int64_t(v.size())}); };
  AttentionOptions full, window, sink, padded, dropped, full_window;
  full.causal = full_window.causal = padded.causal = false;
  window.window = 3;
  sink.window = 2, sink.sink = 2;
  padded.key_lengths = lengths({3, 5});
  dropped.dropout = 0.3, dropped.seed = 5, dropped.stream = 9;
  full_window.window = 2, full_window.sink = 1;
  InputSpec wide{{1, 70, 1, 4}, -2, 2};
  return {
      {.name = "causal",
       .attrs = {},
       .inputs = {{{2, 5, 2, 4}}, {{2, 5, 2, 4}}, {{2, 5, 2, 4}}},
       .factor = 4,
       .reduction_length = 5},
      {.name = "full",
       .attrs = full,
       .inputs = {{{1, 6, 2, 3}}, {{1, 6, 2, 3}}, {{1, 6, 2, 3}}},
       .factor = 4,
       .reduction_length = 6},
      {.name = "grouped, wide v",
       .attrs = {},
       .inputs = {{{1, 4, 6, 2}}, {{1, 4, 2, 2}}, {{1, 4, 2, 5}}},
       .factor = 4,
       .reduction_length = 12},
      {.name = "more keys",
       .attrs = {},
       .inputs = {{{2, 2, 2, 3}}, {{2, 7, 1, 3}}, {{2, 7, 1, 3}}},
       .factor = 4,
       .reduction_length = 7},
      {.name = "window",
       .attrs = window,
       .inputs = {{{1, 9, 1, 4}}, {{1, 9, 1, 4}}, {{1, 9, 1, 4}}},
       .factor = 4,
       .reduction_length = 9},
      {.name = "sink + window",
       .attrs = sink,
       .inputs = {{{1, 9, 2, 4}}, {{1, 9, 2, 4}}, {{1, 9, 2, 4}}},
       .factor = 4,
       .reduction_length = 9},
      {.name = "full window",
       .attrs = full_window,
       .inputs = {{{1, 7, 1, 2}}, {{1, 7, 1, 2}}, {{1, 7, 1, 2}}},
       .factor = 4,
       .reduction_length = 7},
      {.name = "padded",
       .attrs = padded,
       .inputs = {{{2, 5, 2, 3}}, {{2, 5, 2, 3}}, {{2, 5, 2, 3}}},
       .factor = 4,
       .reduction_length = 5},
      {.name = "dropout",
       .attrs = dropped,
       .inputs = {{{1, 6, 2, 3}}, {{1, 6, 2, 3}}, {{1, 6, 2, 3}}},
       .factor = 4,
       .reduction_length = 6},
      {.name = "several tiles", .attrs = {}, .inputs = {wide, wide, wide}, .factor = 16, .reduction_length = 70},
      {.name = "heads of 16, grouped",
       .attrs = {},
       .inputs = {{{1, 130, 4, 16}, -2, 2}, {{1, 130, 2, 16}, -2, 2}, {{1, 130, 2, 16}, -2, 2}},
       .factor = 16,
       .reduction_length = 130},
      {.name = "heads of 64, full",
       .attrs = full,
       .inputs = {{{2, 67, 1, 64}, -1, 1}, {{2, 67, 1, 64}, -1, 1}, {{2, 67, 1, 64}, -1, 1}},
       .factor = 16,
       .reduction_length = 67},
      {.name = "one", .attrs = {}, .inputs = {{{1, 1, 1, 1}}, {{1, 1, 1, 1}}, {{1, 1, 1, 1}}}, .factor = 4},
      {.name = "empty", .attrs = {}, .inputs = {{{2, 0, 2, 4}}, {{2, 0, 2, 4}}, {{2, 0, 2, 4}}}},
  };
}

template <class Op>
std::vector<ErrorSample<Op>> attention_error_samples() {
  AttentionOptions bad_dropout;
  bad_dropout.dropout = 1;
  AttentionOptions bad_window;
  bad_window.window = -1;
  return {{"heads not a multiple", {}, {{{1, 2, 3, 4}}, {{1, 2, 2, 4}}, {{1, 2, 2, 4}}}},
          {"fewer keys", {}, {{{1, 3, 1, 4}}, {{1, 2, 1, 4}}, {{1, 2, 1, 4}}}},
          {"D differs", {}, {{{1, 2, 1, 4}}, {{1, 2, 1, 3}}, {{1, 2, 1, 4}}}},
          {"three axes", {}, {{{2, 1, 4}}, {{2, 1, 4}}, {{2, 1, 4}}}},
          {"dropout = 1", bad_dropout, {{{1, 2, 1, 4}}, {{1, 2, 1, 4}}, {{1, 2, 1, 4}}}},
          {"negative window", bad_window, {{{1, 2, 1, 4}}, {{1, 2, 1, 4}}, {{1, 2, 1, 4}}}}};
}

}  // namespace basis::ops
