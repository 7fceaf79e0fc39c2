// Multi-head latent attention in a model: against loops over its equations, generation with the cache, Basis
// Decomposition in every combination, files of Hugging Face's layout. And: BD models train like the dense ones that
// they stand for.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <tuple>

#include "core/rng.h"
#include "models/attention/attention.h"
#include "ops/bd_linear/bd_linear.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/view/view.h"
#include "trainers/hf/bd_init.h"
#include "trainers/hf/directory.h"
#include "trainers/hf/regauge.h"

namespace basis::trainers::hf {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using models::Var;

constexpr int64_t kTime = 7;

configs::ModelConfig config(const std::string& family, int64_t q_rank = 0) {
  configs::ModelConfig c;
  c.family = family;
  c.n_layer = 2, c.n_head = 3, c.d_model = 24, c.d_ff = 16, c.vocab_size = 13, c.max_seq_len = 16;
  c.head_dim = 4, c.kv_lora_rank = 12, c.q_lora_rank = q_rank, c.qk_rope_head_dim = 2, c.v_head_dim = 5;
  c.rope_layout = "interleaved";
  return c;
}

// Every parameter random: norms about 1, biases too.
std::unique_ptr<models::Model> random_model(const configs::ModelConfig& c) {
  auto model = models::make_model(c);
  model->initialize(1, core::cpu, DType::f64);
  core::HostRandom random(3, 0);
  for (models::Parameter& p : model->parameters()) {
    if (p.buffer) continue;
    std::vector<double> v(size_t(p.var.value().numel()));
    double one = p.var.dim() == 1 && p.path.ends_with("weight") ? 1 : 0;
    for (double& x : v) x = 0.3 * random.normal() + one;
    p.var.set_value(Tensor::from(v, p.var.shape()));
  }
  return model;
}

Tensor ids(int64_t n = kTime) {
  std::vector<int32_t> v;
  for (int64_t i = 0; i < n; ++i) v.push_back(int32_t(i * i % 13));
  return Tensor::from(v, {1, n});
}

std::vector<double> logits(const models::Model& m) {
  autograd::NoGrad no_grad;
  return m.logits({.compute = DType::f64}, ids()).value().to_vector<double>();
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double d = a.size() == b.size() ? 0 : HUGE_VAL;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) d = std::max(d, std::abs(a[i] - b[i]));
  return d;
}

// A projector's parameters as nested loops read them.
struct Plain {
  std::map<std::string, Var> at;
  double operator()(const std::string& name, int64_t i, int64_t j) const {
    const Tensor& t = at.at(name).value();
    return t.data<double>()[i * (t.dim() == 2 ? t.size(1) : 1) + j];
  }
};

TEST(Mla, ProjectorIsTheEquations) {
  constexpr int64_t C = 6, H = 2, D = 3, R = 4, L = 5, V = 2;
  models::ProjectorOptions o{
      .channels = C, .heads = H, .kv_heads = H, .head_dim = D, .bias = false, .init_std = 0.5, .out_init_std = 0.5};
  models::LatentOptions l{
      .kv_rank = L, .q_rank = 0, .rope_dim = R, .value_dim = V, .rope = {.theta = 100, .interleaved = true}};
  auto projector = models::make_mla_projector(o, l);
  projector->initialize(4, core::cpu, DType::f64);
  Plain w;
  for (auto& p : projector->parameters()) w.at[p.path] = p.var;
  core::HostRandom random(8, 0);
  std::vector<double> x(size_t(kTime * C));
  for (double& v : x) v = random.normal();
  models::QKV got = projector->qkv({.compute = DType::f64}, Var(Tensor::from(x, {1, kTime, C})));
  ASSERT_EQ(got.q.shape(), (core::Shape{1, kTime, H, D + R}));
  ASSERT_EQ(got.k.shape(), got.q.shape());
  ASSERT_EQ(got.v.shape(), (core::Shape{1, kTime, H, V}));
  for (int64_t t = 0; t < kTime; ++t) {
    const double* row = &x[size_t(t * C)];
    auto product = [&](const std::string& name, int64_t i, const double* in, int64_t n) {
      double s = 0;
      for (int64_t j = 0; j < n; ++j) s += w(name, i, j) * in[j];
      return s;
    };
    double c[L], square = 0;
    for (int64_t i = 0; i < L; ++i) c[i] = product("latent/weight", i, row, C), square += c[i] * c[i];
    for (int64_t i = 0; i < L; ++i) c[i] *= w("latent/norm/weight", i, 0) / std::sqrt(square / L + 1e-6);
    // Channel i of R rotated ones that start at row `first` of `name`.
    auto rotated = [&](const std::string& name, int64_t first, int64_t i) {
      double even = product(name, first + i / 2 * 2, row, C), odd = product(name, first + i / 2 * 2 + 1, row, C);
      double angle = double(t) * std::pow(100.0, -double(i / 2 * 2) / R);
      return i % 2 ? even * std::sin(angle) + odd * std::cos(angle) : even * std::cos(angle) - odd * std::sin(angle);
    };
    for (int64_t h = 0; h < H; ++h) {
      auto value = [&](const Var& y, int64_t i) { return y.value().data<double>()[(t * H + h) * y.size(3) + i]; };
      for (int64_t i = 0; i < D; ++i) {
        EXPECT_NEAR(value(got.q, i), product("q/weight", h * D + i, row, C), 1e-12);
        EXPECT_NEAR(value(got.k, i), product("k/weight", h * D + i, c, L), 1e-12);
      }
      for (int64_t i = 0; i < R; ++i) {
        EXPECT_NEAR(value(got.q, D + i), rotated("q_rope/weight", h * R, i), 1e-12);
        EXPECT_NEAR(value(got.k, D + i), rotated("k_rope/weight", 0, i), 1e-12);
      }
      for (int64_t i = 0; i < V; ++i) EXPECT_NEAR(value(got.v, i), product("v/weight", h * V + i, c, L), 1e-12);
    }
  }
}

TEST(Mla, BasisDecompositionKeepsTheLogits) {
  for (int64_t q_rank : {0, 8}) {
    auto dense = random_model(config("deepseek_v2", q_rank));
    auto want = logits(*dense);
    for (const char* basis : {"pivoted", "residual_min", "first", "last"})
      for (bool qk : {false, true})
        for (bool vo : {false, true}) {
          SCOPED_TRACE(std::string(basis) + (qk ? " qk" : "") + (vo ? " vo" : ""));
          Regauged bd = to_bd(*dense, {.basis = basis, .qk = qk, .vo = vo});
          EXPECT_LE(difference(logits(*bd.model), want), 1e-10);
          EXPECT_LE(difference(logits(*to_dense(*bd.model)), want), 1e-10);
          EXPECT_EQ(dense->parameter_count() - bd.model->parameter_count(), 2 * 3 * (qk * 16 + vo * 25));
          for (const auto& layer : bd.layers)
            for (const auto& pair : layer) EXPECT_LT(pair["f32"]["max"].get<double>(), 1e-3);
        }
  }
}

TEST(Mla, GeneratesWhatOnePassGives) {
  auto dense = random_model(config("deepseek_v2", 8));
  Regauged bd = to_bd(*dense, {});
  autograd::NoGrad no_grad;
  for (const models::Model* model : {dense.get(), bd.model.get()}) {
    auto whole = model->logits({.compute = DType::f64}, ids()).value();
    models::KeyValueCache cache;
    cache.layers.resize(2);
    models::Pass pass{.compute = DType::f64, .cache = &cache};
    for (int64_t t = 0; t < kTime; ++t) {
      auto step = model->logits(pass, ids().slice(1, t, t + 1).contiguous()).value();
      ++cache.length;
      EXPECT_LE(difference(step.to_vector<double>(), whole.slice(1, t, t + 1).to_vector<double>()), 1e-12) << t;
    }
  }
}

TEST(Mla, FilesOfHuggingFaceComeBack) {
  fs::path path = fs::temp_directory_path() / ("basis_mla_" + std::to_string(::getpid()));
  for (int64_t q_rank : {0, 8}) {
    fs::create_directories(path);
    auto model = random_model(config("deepseek_v2", q_rank));
    write_directory(path, *model, DType::f64, nullptr);
    Directory d = read_directory(path, DType::f64);
    EXPECT_EQ(logits(*d.model), logits(*model));
    fs::remove_all(path);
  }
}

TEST(Mla, RefusesWhatIsNoDecomposition) {
  auto code_of = [](const configs::ModelConfig& c) {
    try {
      models::make_model(c);
      return core::ExitCode::ok;
    } catch (const core::Error& e) {
      return e.code();
    }
  };
  auto bd = config("deepseek_v2");
  bd.attention.projector.type = "bd";
  EXPECT_EQ(code_of(bd), core::ExitCode::ok);
  auto narrow = bd, crowded = bd, grouped = bd;
  narrow.kv_lora_rank = 5, crowded.kv_lora_rank = 8, grouped.n_kv_head = 1;
  for (const auto& c : {narrow, crowded, grouped}) EXPECT_EQ(code_of(c), core::ExitCode::usage);
}

std::map<std::string, Tensor> gradients(const models::Model& m) {
  Var y = m.logits({.training = true, .compute = DType::f64}, ids());
  std::vector<int32_t> targets;
  for (int64_t i = 0; i < kTime; ++i) targets.push_back(int32_t((3 * i + 1) % 13));
  ops::cross_entropy(ops::view(y, {kTime, 13}), Tensor::from(targets, {kTime}), {}).backward();
  std::map<std::string, Tensor> g;
  for (models::Parameter& p : m.parameters())
    if (!p.buffer) g[p.path] = p.var.grad();
  return g;
}

// The dense weights are linear in those of BD ([I ; C] and re-gauged Wq, Wo), so BD's gradient is a part of theirs.
void expect_gradients_of_dense(const configs::ModelConfig& c, bool qk, bool vo, ops::BdPath path_taken) {
  Regauged bd = to_bd(*random_model(c), {.qk = qk, .vo = vo});
  auto dense = to_dense(*bd.model);
  ops::bd_path = path_taken;
  auto got = gradients(*bd.model), want = gradients(*dense);
  ops::bd_path = ops::BdPath::automatic;
  std::map<std::string, std::vector<double>> orders;
  for (models::Parameter& p : bd.model->parameters())
    if (p.buffer) orders[p.path] = p.var.value().to_vector<double>();
  int narrower = 0;
  for (const auto& [path, g] : got) {
    SCOPED_TRACE(path);
    const Tensor& w = want.at(path);
    bool key = path.ends_with("/k/weight"), value = path.ends_with("/v/weight");
    auto order = orders.find(path.substr(0, path.find("attention/") + 10) + "order");
    bool permuted = order != orders.end() && (key || value || path.ends_with("/q/weight"));
    int64_t rows = g.dim() == 2 ? g.size(0) : 1, columns = g.size(-1), shift = key ? w.size(-1) - columns : 0;
    narrower += columns < w.size(-1);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        int64_t at = permuted ? int64_t(order->second[size_t(j + shift)]) : j + shift;
        ASSERT_NEAR(g.data<double>()[i * columns + j], w.data<double>()[i * w.size(-1) + at], 1e-10) << i << " " << j;
      }
  }
  EXPECT_EQ(narrower, 2 * (qk + vo));
}

TEST(BasisDecomposition, TrainsAsTheDenseModelItStandsFor) {
  struct Case {
    const char *family, *mixer;
    ops::BdPath path;
    int kv_heads;
  };
  for (const Case& m : {Case{"gpt2", "fused", ops::BdPath::automatic, 1},
                        {"gpt2", "fused", ops::BdPath::written_out, 1},
                        {"gpt2", "fused", ops::BdPath::written_out, 3},
                        {"gpt2", "conv_basis", ops::BdPath::automatic, 3},
                        {"gpt2", "low_rank", ops::BdPath::written_out, 3},
                        {"bert", "fused", ops::BdPath::automatic, 3},
                        {"bert", "conv_basis", ops::BdPath::written_out, 1},
                        {"llama", "fused", ops::BdPath::automatic, 1},
                        {"deepseek_v2", "fused", ops::BdPath::automatic, 0},
                        {"deepseek_v2", "conv_basis", ops::BdPath::automatic, 0}})
    for (auto [qk, vo] : {std::pair(true, true), {true, false}, {false, true}}) {
      if (qk && m.family == std::string("llama")) continue;  // rotary positions
      SCOPED_TRACE(fmt::format("{} {} path {} qk {} vo {}", m.family, m.mixer, int(m.path), qk, vo));
      auto c = config(m.family);
      c.n_kv_head = m.kv_heads;
      c.attention.mixer.type = m.mixer, c.attention.mixer.k = 3, c.attention.mixer.features = "taylor";
      expect_gradients_of_dense(c, qk, vo, m.path);
    }
}

// Softmax rows do not see the key bias; mixers whose logits are not rows of q k^T, and features of single vectors, do.
TEST(BasisDecomposition, UnderEveryMixer) {
  struct Case {
    const char *type, *breakpoints = "uniform", *features = "elu";
    bool exact = true;
  };
  for (const Case& m :
       {Case{"naive"}, Case{"window"}, Case{"long_lora"}, Case{"conv_basis"}, Case{"conv_basis", "recover"},
        Case{"conv_basis", "learned"}, Case{"low_rank", "uniform", "taylor"}, Case{"check"},
        Case{"low_rank", "uniform", "elu", false}})
    for (const char* family : {"gpt2", "deepseek_v2", "bert"}) {
      SCOPED_TRACE(fmt::format("{} {} {} {}", family, m.type, m.breakpoints, m.features));
      auto c = config(family);
      c.n_head = 4, c.n_kv_head = c.family == "gpt2" ? 2 : 0;
      auto& mixer = c.attention.mixer;
      mixer.type = m.type, mixer.breakpoints = m.breakpoints, mixer.features = m.features;
      mixer.k = 3, mixer.window = std::string(m.type) == "window" ? 3 : 0, mixer.group = 4, mixer.probe = 2;
      mixer.candidate = "conv_basis";
      auto dense = random_model(c);
      if (!m.exact) {
        EXPECT_THROW(to_bd(*dense, {}), core::Error);
        EXPECT_LE(difference(logits(*to_bd(*dense, {.qk = false}).model), logits(*dense)), 1e-10);
        continue;
      }
      Regauged bd = to_bd(*dense, {});
      EXPECT_LE(difference(logits(*bd.model), logits(*dense)), 1e-10);
      EXPECT_LE(difference(logits(*to_dense(*bd.model)), logits(*dense)), 1e-10);
    }
}

// Rows of probabilities do not sum to 1 then: the value bias stays with the values.
TEST(BasisDecomposition, KeepsTheFunctionUnderDropout) {
  for (const char* family : {"gpt2", "bert"}) {
    auto c = config(family);
    c.dropout = 0.4;
    auto dense = random_model(c);
    auto dropped = [](const models::Model& m) {
      autograd::NoGrad no_grad;
      core::Generator generator(9);
      models::Pass pass{.training = true, .compute = DType::f64, .random = &generator};
      return m.logits(pass, ids()).value().to_vector<double>();
    };
    EXPECT_GT(difference(dropped(*dense), logits(*dense)), 1e-3) << family;
    EXPECT_LE(difference(dropped(*to_bd(*dense, {}).model), dropped(*dense)), 1e-10) << family;
  }
}

TEST(BasisDecomposition, OfSomeLayers) {
  for (const char* family : {"gpt2", "deepseek_v2"}) {
    auto dense = random_model(config(family));
    Regauged bd = to_bd(*dense, {.layers = {{1, {.type = "bd", .qk = false}}}});
    EXPECT_EQ(bd.model->config().attention_of(0).projector.type, "dense");
    EXPECT_EQ(bd.model->config().attention_of(1).projector.type, "bd");
    EXPECT_LE(difference(logits(*bd.model), logits(*dense)), 1e-10);
    EXPECT_LE(difference(logits(*to_dense(*bd.model)), logits(*dense)), 1e-10);
    EXPECT_TRUE(bd.layers[0].empty() && bd.layers[1].contains("vo"));
  }
}

TEST(BasisDecomposition, ConvertedInitialisationIsTheDenseFunction) {
  for (const char* family : {"gpt2", "bert", "deepseek_v2"}) {
    SCOPED_TRACE(family);
    auto c = config(family);
    auto start = [](const configs::ModelConfig& c) {
      auto model = models::make_model(c);
      model->initialize(5, core::cpu, DType::f64);
      convert_initialisation(*model, 5);
      return logits(*model);
    };
    auto dense = start(c);
    c.attention.projector.type = "bd", c.attention.projector.init = "converted";
    EXPECT_LE(difference(start(c), dense), 1e-10);
    c.attention.projector.init = "direct";
    EXPECT_GT(difference(start(c), dense), 1e-6);
    c.attention.projector.init = "converted", c.attention.projector.basis = "last";
    EXPECT_THROW(start(c), core::Error);  // falls on the back, where qk_slice says front
    c.attention.projector.qk_slice = "back";
    EXPECT_LE(difference(start(c), dense), 1e-10);
    c.layers[1] = {};  // dense
    EXPECT_LE(difference(start(c), dense), 1e-10);
    c.layers[1].projector = {.type = "bd", .basis = "first", .vo_slice = "front", .init = "converted", .qk = false};
    EXPECT_LE(difference(start(c), dense), 1e-10);
    c.layers[1].projector.init = "direct";
    EXPECT_GT(difference(start(c), dense), 1e-6);
  }
}

}  // namespace
}  // namespace basis::trainers::hf
