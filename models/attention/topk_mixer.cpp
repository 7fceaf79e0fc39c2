#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "models/attention/attention.h"

namespace basis::models {
namespace {

struct TopKMixer : Mixer {
  explicit TopKMixer(const MixerOptions& o) : k(o.k), causal(o.causal) {
    if (k < 1)
      throw core::Error(
          {.where = "top-k attention", .expected = "k >= 1", .got = std::to_string(k), .code = core::ExitCode::usage});
  }

  Var mix(const Pass& pass, const Var& q, const Var& k, const Var& v) const override {
    if (autograd::needs_recording({q, k, v}))
      throw core::Error({.where = "top-k attention",
                         .expected = "no gradient",
                         .got = "one",
                         .remedy = "use another mixer for training"});
    auto on_host = [](const Var& x) { return x.value().to(core::cpu).to(core::DType::f32).contiguous(); };
    Tensor qs = on_host(q), ks = on_host(k), vs = on_host(v);
    std::vector<int32_t> lengths;
    if (pass.key_lengths) lengths = pass.key_lengths.to(core::cpu).to_vector<int32_t>();
    int64_t B = q.size(0), T = q.size(1), H = q.size(2);
    Shape shape = q.shape();
    shape[3] = v.size(3);
    Tensor out = Tensor::zeros(shape, core::DType::f32);
    core::parallel_for(B * T * H, 16, [&](int64_t begin, int64_t end) {
      std::vector<float> logits(static_cast<size_t>(ks.size(1)));
      std::vector<int32_t> order;
      for (int64_t i = begin; i < end; ++i) {
        int64_t b = i / (T * H), t = i / H % T;
        int64_t keys = causal ? t + 1 + ks.size(1) - T : ks.size(1);
        if (!lengths.empty()) keys = std::min<int64_t>(keys, lengths[size_t(b)]);
        row(qs.data<float>() + i * q.size(3), ks, vs, b, i % H / (H / ks.size(2)), keys, logits, order,
            out.data<float>() + i * v.size(3));
      }
    });
    return Var(out.to(q.dtype()).to(q.device()));
  }

  // One query against the first `keys` keys of head g.
  void row(const float* q, const Tensor& ks, const Tensor& vs, int64_t b, int64_t g, int64_t keys,
           std::vector<float>& logits, std::vector<int32_t>& order, float* out) const {
    int64_t S = ks.size(1), G = ks.size(2), D = ks.size(3), Dv = vs.size(3), kept = std::min(k, keys);
    for (int64_t j = 0; j < keys; ++j)
      logits[size_t(j)] =
          std::inner_product(q, q + D, ks.data<float>() + ((b * S + j) * G + g) * D, 0.0f) / std::sqrt(float(D));
    order.resize(size_t(keys));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + kept, order.end(),
                      [&](int32_t x, int32_t y) { return logits[size_t(x)] > logits[size_t(y)]; });
    float sum = 0;
    for (int64_t n = 0; n < kept; ++n) {
      int32_t j = order[size_t(n)];
      float p = std::exp(logits[size_t(j)] - logits[size_t(order[0])]);
      const float* value = vs.data<float>() + ((b * S + j) * G + g) * Dv;
      for (int64_t c = 0; c < Dv; ++c) out[c] += p * value[c];
      sum += p;
    }
    for (int64_t c = 0; c < Dv && kept > 0; ++c) out[c] /= sum;
  }

  int64_t k;
  bool causal;
};

}  // namespace

std::unique_ptr<Mixer> make_topk_mixer(const MixerOptions& options) { return std::make_unique<TopKMixer>(options); }

}  // namespace basis::models
