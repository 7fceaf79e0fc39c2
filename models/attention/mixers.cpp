#include <cmath>

#include "core/log.h"
#include "models/attention/attention.h"
#include "ops/fused_attention/fused_attention.h"
#include "ops/naive_attention/naive_attention.h"

namespace basis::models {
namespace {

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
  }
  return a;
}

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

// Runs a reference beside a candidate, logs their relative difference, returns the candidate's result.
struct CheckMixer : Mixer {
  CheckMixer(std::unique_ptr<Mixer> r, std::unique_ptr<Mixer> c) : reference(std::move(r)), candidate(std::move(c)) {}

  Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const override {
    uint64_t consumer = pass.random ? pass.random->consumer() : 0;
    std::vector<double> expected;
    {
      autograd::NoGrad no_grad;
      expected = reference->mix(pass, q, k, v).value().to_vector<double>();
    }
    if (pass.random) pass.random->set_consumer(consumer);  // both draw the same dropout mask
    Var got = candidate->mix(pass, q, k, v);
    auto values = got.value().to_vector<double>();
    double difference = 0, norm = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      difference += (values[i] - expected[i]) * (values[i] - expected[i]);
      norm += expected[i] * expected[i];
    }
    core::log_info("attention check: relative error {:.3e}", std::sqrt(difference / (norm > 0 ? norm : 1)));
    return got;
  }

  std::unique_ptr<Mixer> reference, candidate;
};

}  // namespace

std::unique_ptr<Mixer> make_mixer(const MixerOptions& o) {
  if (o.type == "naive") return std::make_unique<NaiveMixer>(o);
  if (o.type == "fused" || o.type == "window") {
    if (o.type == "window" && o.window < 1)
      throw core::Error({.where = "attention.mixer.window",
                         .expected = "a width of at least 1",
                         .got = std::to_string(o.window),
                         .code = core::ExitCode::usage});
    return std::make_unique<FusedMixer>(o);
  }
  if (o.type == "check" && o.reference != "check" && o.candidate != "check") {
    MixerOptions reference = o, candidate = o;
    reference.type = o.reference;
    candidate.type = o.candidate;
    return std::make_unique<CheckMixer>(make_mixer(reference), make_mixer(candidate));
  }
  throw core::Error({.where = "attention.mixer.type",
                     .expected = "naive, fused, window or check",
                     .got = o.type,
                     .code = core::ExitCode::usage});
}

}  // namespace basis::models
