// The low_rank and long_lora mixers: what they compute, generation with the cache, and what they refuse.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "models/attention/attention.h"
#include "models/model.h"
#include "ops/attention_features/attention_features.h"

namespace basis::models {
namespace {

Tensor random_tensor(const Shape& shape, uint32_t seed, double largest = 1) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(-largest, largest);
  std::vector<double> values(size_t(shape.numel()));
  for (double& x : values) x = uniform(engine);
  return Tensor::from(values, shape);
}

// Softmax attention [1,T,H,D] over the pairs that `sees` tells, and its gradients by dy, in f64.
struct Softmax {
  std::vector<double> y, dq, dk, dv;
};
template <class Sees>
Softmax softmax_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy, Sees&& sees) {
  int64_t B = q.size(0), T = q.size(1), H = q.size(2), G = k.size(2), D = q.size(3);
  double scale = 1 / std::sqrt(double(D));
  Softmax out{std::vector<double>(size_t(q.numel())), std::vector<double>(size_t(q.numel())),
              std::vector<double>(size_t(k.numel())), std::vector<double>(size_t(v.numel()))};
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < T; ++i) {
        const double* query = q.data<double>() + ((b * T + i) * H + h) * D;
        const double* grad = dy.data<double>() + ((b * T + i) * H + h) * D;
        auto at = [&](int64_t j) { return ((b * T + j) * G + h * G / H) * D; };
        std::vector<double> p(size_t(T), 0.0), dp(size_t(T), 0.0);
        double mass = 0, mean = 0;
        for (int64_t j = 0; j < T; ++j) {
          if (!sees(b, h, i, j)) continue;
          for (int64_t d = 0; d < D; ++d) p[size_t(j)] += scale * query[d] * k.data<double>()[at(j) + d];
          mass += p[size_t(j)] = std::exp(p[size_t(j)]);
        }
        for (int64_t j = 0; j < T && mass > 0; ++j) {
          p[size_t(j)] /= mass;
          for (int64_t d = 0; d < D; ++d) {
            out.y[size_t(((b * T + i) * H + h) * D + d)] += p[size_t(j)] * v.data<double>()[at(j) + d];
            out.dv[size_t(at(j) + d)] += p[size_t(j)] * grad[d];
            dp[size_t(j)] += grad[d] * v.data<double>()[at(j) + d];
          }
          mean += p[size_t(j)] * dp[size_t(j)];
        }
        for (int64_t j = 0; j < T; ++j)
          for (int64_t d = 0; d < D; ++d) {
            double ds = scale * p[size_t(j)] * (dp[size_t(j)] - mean);
            out.dq[size_t(((b * T + i) * H + h) * D + d)] += ds * k.data<double>()[at(j) + d];
            out.dk[size_t(at(j) + d)] += ds * query[d];
          }
      }
  return out;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
  EXPECT_LT(worst, tolerance);
}

TEST(LongLoraMixer, IsSoftmaxAttentionWithinShiftedGroups) {
  for (int64_t T : {1, 3, 4, 8, 11, 24, 29})
    for (bool causal : {true, false})
      for (bool padded : {false, true}) {
        int64_t g = 8;
        Tensor q = random_tensor({2, T, 4, 3}, 1), k = random_tensor({2, T, 2, 3}, 2),
               v = random_tensor({2, T, 2, 3}, 3);
        Tensor dy = random_tensor({2, T, 4, 3}, 4);
        Pass pass;
        std::vector<int32_t> lengths{int32_t(T), int32_t(T / 2)};
        if (padded) pass.key_lengths = Tensor::from(lengths, {2});
        auto mixer = make_mixer({.type = "long_lora", .causal = causal, .group = g, .heads = 4, .kv_heads = 2});
        Var vq(q, true), vk(k, true), vv(v, true);
        Var y = mixer->mix(pass, vq, vk, vv);
        y.backward(dy);
        Softmax expected = softmax_attention(q, k, v, dy, [&](int64_t b, int64_t h, int64_t i, int64_t j) {
          int64_t shift = h >= 2 ? g / 2 : 0;
          return (i + shift) / g == (j + shift) / g && (!causal || j <= i) && (!padded || j < lengths[size_t(b)]);
        });
        expect_near(y.value().to_vector<double>(), expected.y, 1e-12);
        expect_near(vq.grad().to_vector<double>(), expected.dq, 1e-12);
        expect_near(vk.grad().to_vector<double>(), expected.dk, 1e-12);
        expect_near(vv.grad().to_vector<double>(), expected.dv, 1e-12);
      }
}

// A weight is off by at most the remainder e^b b^(p+1) / (p+1)!, b the largest logit; with weights off by a factor of
// at most 1 +- e, rows of softmax attention move by at most 2 e / (1 - e) max |v|.
TEST(LowRankMixer, TaylorFeaturesKeepThePapersBound) {
  for (int degree : {1, 2})
    for (double size : {0.3, 0.6, 1.0, 1.3}) {
      int64_t T = 50, D = 8;
      Tensor q = random_tensor({1, T, 2, D}, 5, size), k = random_tensor({1, T, 2, D}, 6, size);
      Tensor v = random_tensor({1, T, 2, D}, 7);
      ops::FeatureOptions o{.kind = ops::Features::taylor, .degree = degree};
      Tensor u1 = ops::attention_features(Var(q), o).value(), u2 = ops::attention_features(Var(k), o).value();
      int64_t r = ops::feature_count(o, D);
      ASSERT_EQ(u1.size(3), r);
      double bound = 0, worst = 0;
      for (int pass = 0; pass < 2; ++pass)
        for (int64_t i = 0; i < 2 * T; ++i)
          for (int64_t j = i % 2; j < 2 * T; j += 2) {
            double logit = 0, weight = 0;
            for (int64_t d = 0; d < D; ++d) logit += q.data<double>()[i * D + d] * k.data<double>()[j * D + d];
            for (int64_t f = 0; f < r; ++f) weight += u1.data<double>()[i * r + f] * u2.data<double>()[j * r + f];
            logit /= std::sqrt(double(D));
            if (pass == 0) bound = std::max(bound, std::abs(logit));
            worst = std::max(worst, std::abs(weight - std::exp(logit)));
          }
      double remainder = ops::taylor_error_bound(bound, degree);
      EXPECT_LE(worst, remainder) << degree << " " << size;
      EXPECT_GT(worst, remainder / 50) << "a bound that says nothing";
      double e = remainder * std::exp(bound);
      if (e >= 0.5) continue;
      auto mixer = make_mixer({.type = "low_rank", .features = "taylor", .degree = degree});
      Var y = mixer->mix({}, Var(q), Var(k), Var(v));
      Softmax exact = softmax_attention(q, k, v, q, [](int64_t, int64_t, int64_t i, int64_t j) { return j <= i; });
      expect_near(y.value().to_vector<double>(), exact.y, 2 * e / (1 - e));
    }
}

TEST(LowRankMixer, RandomFeaturesTendToSoftmax) {
  int64_t T = 40, D = 4;
  Tensor q = random_tensor({1, T, 2, D}, 5), k = random_tensor({1, T, 2, D}, 6), v = random_tensor({1, T, 2, D}, 7);
  Softmax exact = softmax_attention(q, k, v, q, [](int64_t, int64_t, int64_t i, int64_t j) { return j <= i; });
  auto mixer = make_mixer({.type = "low_rank", .features = "random", .rank = 20000});
  expect_near(mixer->mix({}, Var(q), Var(k), Var(v)).value().to_vector<double>(), exact.y, 0.02);
}

configs::ModelConfig small_model(const std::string& type) {
  configs::ModelConfig c;
  c.family = "llama";
  c.n_layer = 2, c.n_head = 4, c.n_kv_head = 2, c.d_model = 16, c.vocab_size = 11, c.max_seq_len = 40;
  c.attention.mixer.type = type;
  c.attention.mixer.group = 8, c.attention.mixer.rank = 12;
  return c;
}

std::vector<double> last_logits(const Model& model, Pass& pass, const std::vector<int32_t>& ids) {
  autograd::NoGrad no_grad;
  Tensor logits = model.logits(pass, Tensor::from(ids, {1, int64_t(ids.size())})).value();
  if (pass.cache) pass.cache->length += int64_t(ids.size());
  return logits.slice(1, logits.size(1) - 1, logits.size(1)).to_vector<double>();
}

TEST(LowRankMixer, GeneratesWhatOnePassGives) {
  std::vector<configs::ModelConfig> all;
  for (const char* features : {"elu", "taylor", "random"})
    for (const char* mask : {"all", "window", "long_lora"}) {
      all.push_back(small_model("low_rank"));
      all.back().attention.mixer.features = features, all.back().attention.mixer.mask = mask;
      if (mask == std::string("window")) all.back().attention.mixer.window = 7;
    }
  all.push_back(small_model("long_lora"));
  all.push_back(small_model("check"));
  all.back().attention.mixer.reference = "low_rank", all.back().attention.mixer.candidate = "long_lora";
  for (const configs::ModelConfig& c : all) {
    auto model = make_model(c);
    model->initialize(1, core::cpu);
    std::vector<int32_t> ids;
    for (int i = 0; i < 36; ++i) ids.push_back(i * i % 11);
    KeyValueCache cache;
    cache.layers.resize(2);
    Pass cached, whole;
    cached.cache = &cache;
    std::vector<double> step = last_logits(*model, cached, {ids.begin(), ids.begin() + 5});
    for (size_t n = 5; n < ids.size(); ++n) {
      auto expected = last_logits(*model, whole, {ids.begin(), ids.begin() + int64_t(n)});
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(step[i], expected[i], 2e-6)
            << c.attention.mixer.features << " " << c.attention.mixer.mask << " " << n;
      step = last_logits(*model, cached, {ids[n]});
    }
  }
}

TEST(LowRankMixer, RefusesWhatItCannotHonour) {
  auto code_of = [](const configs::ModelConfig& c) {
    try {
      make_model(c);
      return core::ExitCode::ok;
    } catch (const core::Error& e) {
      return e.code();
    }
  };
  configs::ModelConfig low = small_model("low_rank"), lora = small_model("long_lora");
  EXPECT_EQ(code_of(low), core::ExitCode::ok);
  EXPECT_EQ(code_of(lora), core::ExitCode::ok);
  std::vector<configs::ModelConfig> bad(9, low);
  bad[0].dropout = 0.1;
  bad[1].attention.mixer.sink = 1;
  bad[2].attention.mixer.features = "taylor", bad[2].attention.mixer.degree = 3;
  bad[3].attention.mixer.features = "random", bad[3].attention.mixer.rank = 0;
  bad[4].attention.mixer.mask = "window";
  bad[5].attention.mixer.mask = "long_lora", bad[5].attention.mixer.group = 7;
  bad[6] = lora, bad[6].attention.mixer.group = 0;
  bad[7] = lora, bad[7].n_kv_head = 1;
  bad[8] = lora, bad[8].attention.mixer.window = 3;
  for (size_t i = 0; i < bad.size(); ++i) EXPECT_EQ(code_of(bad[i]), core::ExitCode::usage) << i;
}

}  // namespace
}  // namespace basis::models
