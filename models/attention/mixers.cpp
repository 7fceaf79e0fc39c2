#include <fmt/format.h>

#include <cmath>

#include "core/log.h"
#include "models/attention/mixer_parts.h"
#include "ops/conv_basis/conv_basis.h"
#include "ops/conv_basis/place.h"
#include "ops/conv_basis/recover.h"
#include "ops/fused_attention/fused_attention.h"
#include "ops/linear/linear.h"
#include "ops/naive_attention/naive_attention.h"
#include "ops/row_gate/row_gate.h"
#include "ops/view/view.h"

namespace basis::models {
ops::AttentionOptions attention_options(const MixerOptions& o, const Pass& pass) {
  ops::AttentionOptions a;
  a.causal = o.causal;
  a.window = o.window;
  a.sink = o.sink;
  a.key_lengths = pass.key_lengths;
  if (pass.training && o.dropout > 0) {
    a.dropout = o.dropout;
    a.seed = pass.random->seed();
    a.stream = pass.random->next_stream();
    a.base = pass.random->base();
  }
  return a;
}

void refuse(const std::string& where, const std::string& expected, const std::string& got, const std::string& remedy) {
  throw core::Error({.where = "attention.mixer." + where,
                     .expected = expected,
                     .got = got,
                     .remedy = remedy,
                     .code = core::ExitCode::usage});
}

namespace {

// Exact softmax attention holding the T x S matrix: the reference.
struct NaiveMixer : Mixer {
  explicit NaiveMixer(const MixerOptions& o) : options(o) {}
  Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const override {
    return ops::naive_attention(q, k, v, attention_options(options, pass));
  }
  MixerOptions options;
};

// The same function in tiles (FlashAttention-2, arXiv 2307.08691). `window` is this with a band and attention sinks
// (StreamingLLM, arXiv 2309.17453).
struct FusedMixer : Mixer {
  explicit FusedMixer(const MixerOptions& o) : options(o) {}
  Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const override {
    return ops::fused_attention(q, k, v, attention_options(options, pass));
  }
  MixerOptions options;
};

// Piecewise Toeplitz logits through FFTs (arXiv 2405.05219). Breakpoints depend on max_seq_len and not on the sequence,
// so that a prefix is mixed alike in training and in generation.
struct ConvBasisMixer : Mixer {
  explicit ConvBasisMixer(const MixerOptions& o) {
    if (o.k < 1 || (o.max_seq_len > 0 && o.k > o.max_seq_len))
      refuse("k", fmt::format("1 to model.max_seq_len = {}", o.max_seq_len), std::to_string(o.k));
    if (o.dropout > 0)
      refuse("type", "no dropout on attention probabilities with conv_basis, which has no such matrix",
             fmt::format("dropout {}", o.dropout), "set model.dropout: 0");
    if (o.sink > 0) refuse("sink", "0 with conv_basis", std::to_string(o.sink), "use type: window for attention sinks");
    options.k = o.k;
    options.segment = o.max_seq_len > 0 ? (o.max_seq_len + o.k - 1) / o.k : 0;
    options.causal = o.causal;
    options.window = o.window;
    options.paper_gradient = o.paper_gradient;
    options.tile = o.tile == "auto" ? 0 : std::stoll(o.tile);
    if ((o.breakpoints == "given") != !o.positions.empty())
      refuse("positions", "breakpoints from 0 with breakpoints: given, and only with that",
             fmt::format("{} of them with {}", o.positions.size(), o.breakpoints));
    for (size_t i = 0; i < o.positions.size(); ++i) {
      double p = o.positions[i], above = i ? o.positions[i - 1] : -1;
      if (p != std::floor(p) || (i ? p <= above : p != 0) || (o.max_seq_len > 0 && p >= double(o.max_seq_len)))
        refuse("positions", "whole numbers that ascend from 0, below model.max_seq_len",
               fmt::format("{} at place {}", p, i));
    }
    positions.assign(o.positions.begin(), o.positions.end());
    if (o.breakpoints == "recover") recover = {.k = o.k, .window = o.probe, .delta = o.delta, .epsilon = o.epsilon};
    if (o.epsilon > o.delta / double(5 * o.probe))
      refuse("epsilon", fmt::format("at most delta / (5 probe) = {}", o.delta / double(5 * o.probe)),
             std::to_string(o.epsilon));
    if (o.breakpoints == "staggered" || o.breakpoints == "learned") {
      if (o.burst >= o.k) refuse("burst", fmt::format("less than k = {}", o.k), std::to_string(o.burst));
      place = {.k = o.k, .segment = options.segment, .burst = o.burst, .stagger = o.breakpoints == "staggered"};
      if (options.segment < 1) refuse("breakpoints", "uniform or recover without model.max_seq_len", o.breakpoints);
    }
    if (o.breakpoints == "learned") {
      if (o.paper_gradient) refuse("gradient", "exact with learned breakpoints", "paper");
      // 0: breakpoints start as uniform ones, and keys as they are.
      parameter(score_weight, "breakpoints/weight", {o.key_heads, o.key_heads * o.key_dim}, Init::late_zeros());
      parameter(score_bias, "breakpoints/bias", {o.key_heads}, Init::late_zeros());
    }
  }
  Var mix(const Pass& pass, const Var& q, const Var& keys, const Var& v) const override {
    ops::ConvBasisOptions here = options;
    Var k = keys, score;
    if (score_weight) {  // [B,T,Hkv]: from a key whether its position is to be a breakpoint, and how much it weighs
      score = ops::linear(ops::view(keys, {keys.size(0), keys.size(1), keys.size(2) * keys.size(3)}),
                          operand(pass, score_weight), operand(pass, score_bias));
      k = ops::row_gate(keys, score);
    }
    if (place) here.breakpoints = ops::place_breakpoints(q.value(), score ? score.value() : Tensor(), *place);
    here.key_lengths = pass.key_lengths;
    if (!positions.empty()) here.breakpoints = given(q.value());
    if (recover) here.breakpoints = ops::recover_breakpoints(q.value(), k.value(), *recover).breakpoints;
    if (pass.cache && pass.cache->length > 0) here.rows = q.size(1) - pass.cache->length;
    return ops::conv_basis_attention(q, k, v, here);
  }
  bool needs_earlier_queries() const override { return true; }
  // [B,H,K] on q's device; kept between passes: a training step always asks for the same.
  Tensor given(const Tensor& q) const {
    int64_t rows = q.size(0) * q.size(2), count = int64_t(positions.size());
    if (!given_ || given_.numel() != rows * count || given_.device() != q.device()) {
      std::vector<int32_t> all;
      for (int64_t i = 0; i < rows; ++i) all.insert(all.end(), positions.begin(), positions.end());
      given_ = Tensor::from(all, {rows, count}).to(q.device());
    }
    return given_.view({q.size(0), q.size(2), count});
  }
  ops::ConvBasisOptions options;
  std::vector<int32_t> positions;
  mutable Tensor given_;
  std::optional<ops::RecoverOptions> recover;
  std::optional<ops::PlaceOptions> place;
  Var score_weight, score_bias;  // [Hkv, Hkv D] and [Hkv], of learned breakpoints
};

// Runs a reference beside a candidate, logs their relative difference, returns the candidate's result.
struct CheckMixer : Mixer {
  CheckMixer(std::unique_ptr<Mixer> r, std::unique_ptr<Mixer> c) : reference(std::move(r)), candidate(std::move(c)) {
    child("", *candidate);
    child("reference", *reference);
  }

  Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const override {
    uint64_t consumer = pass.random ? pass.random->consumer() : 0;
    std::vector<double> expected;
    {
      autograd::NoGrad no_grad;
      expected = reference->mix(pass, queries_for(*reference, pass, q), k, v).value().to_vector<double>();
    }
    if (pass.random) pass.random->set_consumer(consumer);  // both draw the same dropout mask
    Var got = candidate->mix(pass, queries_for(*candidate, pass, q), k, v);
    auto values = got.value().to_vector<double>();
    double difference = 0, norm = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      difference += (values[i] - expected[i]) * (values[i] - expected[i]);
      norm += expected[i] * expected[i];
    }
    core::log_info("attention check: relative error {:.3e}", std::sqrt(difference / (norm > 0 ? norm : 1)));
    return got;
  }

  bool needs_earlier_queries() const override {
    return reference->needs_earlier_queries() || candidate->needs_earlier_queries();
  }
  Var queries_for(const Mixer& m, const Pass& pass, const Var& q) const {
    if (!pass.cache || m.needs_earlier_queries() || !needs_earlier_queries()) return q;
    return Var(q.value().slice(1, pass.cache->length, q.size(1)));
  }

  std::unique_ptr<Mixer> reference, candidate;
};

}  // namespace

namespace {

// Of `check` both mixers count.
bool any_mixer(const MixerOptions& o, bool (*is)(const MixerOptions&, const std::string& type)) {
  return o.type == "check" ? is(o, o.reference) || is(o, o.candidate) : is(o, o.type);
}

}  // namespace

bool sees_key_bias(const MixerOptions& options) {
  return any_mixer(options,
                   [](const auto&, const std::string& type) { return type == "conv_basis" || type == "low_rank"; });
}

bool mixes_by_products(const MixerOptions& options) {
  return !any_mixer(
      options, [](const auto& o, const std::string& type) { return type == "low_rank" && o.features != "taylor"; });
}

std::unique_ptr<Mixer> make_mixer(const MixerOptions& o) {
  if (o.type == "naive") return std::make_unique<NaiveMixer>(o);
  if (o.type == "fused" || o.type == "window") {
    if (o.type == "window" && o.window < 1) refuse("window", "a width of at least 1", std::to_string(o.window));
    return std::make_unique<FusedMixer>(o);
  }
  if (o.type == "conv_basis") return std::make_unique<ConvBasisMixer>(o);
  if (o.type == "low_rank") return make_low_rank_mixer(o);
  if (o.type == "long_lora") return make_long_lora_mixer(o);
  if (o.type == "topk") return make_topk_mixer(o);
  if (o.type == "check" && o.reference != "check" && o.candidate != "check") {
    MixerOptions reference = o, candidate = o;
    reference.type = o.reference;
    candidate.type = o.candidate;
    return std::make_unique<CheckMixer>(make_mixer(reference), make_mixer(candidate));
  }
  refuse("type", "naive, fused, window, conv_basis, low_rank, long_lora or check", o.type);
}

}  // namespace basis::models
