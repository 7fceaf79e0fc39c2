// Conversion of Hugging Face directories: logits that transformers gave, bytes that come back, what is refused.
#include "trainers/hf/convert.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>

#include "core/rng.h"
#include "trainers/generate.h"
#include "trainers/hf/directory.h"
#include "trainers/hf/regauge.h"
#include "trainers/session.h"
#include "trainers/step.h"
#include "trainers/trainer.h"

namespace basis::trainers::hf {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using nlohmann::json;

uint64_t fnv(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3;
  return h;
}

// The formula of tests/golden/hf_logits.py.
Tensor weight(const std::string& name, const std::vector<int64_t>& extents) {
  core::Shape shape;
  for (int64_t e : extents) shape.push_back(e);
  std::vector<double> values(size_t(shape.numel()));
  double one = extents.size() == 1 && name.ends_with("weight") ? 1 : 0, whole;
  for (size_t i = 0; i < values.size(); ++i) {
    double u = std::modf(0.618033988749895 * double(i + 1) + double(fnv(name) % 1000) / 1000, &whole);
    values[i] = 0.3 * (2 * u - 1) + one;
  }
  return Tensor::from(values, shape);
}

Loaded on_cpu(const fs::path& run) { return load_model(run.string(), {"run.device=cpu"}); }

std::vector<double> logits(const models::Model& model, const std::vector<int32_t>& ids, int64_t batch = 1) {
  autograd::NoGrad no_grad;
  models::Pass pass{.compute = model.parameters()[0].var.dtype()};
  return model.logits(pass, Tensor::from(ids, {batch, int64_t(ids.size()) / batch})).value().to_vector<double>();
}

double max_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double d = a.size() == b.size() ? 0 : HUGE_VAL;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) d = std::max(d, std::abs(a[i] - b[i]));
  return d;
}

void expect_same_tensors(const fs::path& a, const fs::path& b) {
  TensorFiles x(a), y(b);
  ASSERT_EQ(x.names(), y.names());
  for (const std::string& name : x.names()) {
    Tensor s = x.read(name), t = y.read(name);
    ASSERT_TRUE(s.dtype() == t.dtype() && s.shape() == t.shape()) << name;
    EXPECT_EQ(std::memcmp(s.raw(), t.raw(), size_t(s.bytes())), 0) << name;
  }
}

class Convert : public ::testing::Test {
 protected:
  fs::path dir_ = fs::temp_directory_path() / ("basis_convert_" + std::to_string(::getpid()));
  void SetUp() override { fs::create_directories(dir_); }
  void TearDown() override { fs::remove_all(dir_); }

  static json golden(const std::string& family) {
    std::ifstream file(std::string(BASIS_SOURCE_DIR) + "/tests/golden/hf_logits.json");
    return json::parse(file).at(family);
  }
  // A Hugging Face directory of formula weights.
  fs::path source(const std::string& family, DType dtype = DType::f32,
                  const std::function<void(json&, NamedTensors&)>& change = {}) const {
    json g = golden(family);
    fs::path path = dir_ / (family + "-hf");
    fs::remove_all(path);
    fs::create_directories(path);
    NamedTensors tensors;
    for (const auto& [name, shape] : g["tensors"].items())
      tensors.emplace_back(name, weight(name, shape.get<std::vector<int64_t>>()).to(dtype));
    if (change) change(g["config"], tensors);
    std::ofstream(path / "config.json") << g["config"];
    write_tensor_files(path, tensors);
    return path;
  }
  // The same with random weights: those of the formula are nearly singular, which no basis survives.
  fs::path random_source(const std::string& family) const {
    return source(family, DType::f32, [](json&, NamedTensors& tensors) {
      core::HostRandom random(5, 0);
      for (auto& [name, tensor] : tensors) {
        std::vector<double> values(size_t(tensor.numel()));
        for (double& v : values) v = 0.3 * random.normal() + (tensor.dim() == 1 && name.ends_with("weight") ? 1 : 0);
        tensor = Tensor::from(values, tensor.shape()).to(DType::f32);
      }
    });
  }
  void expect_refused(const fs::path& from, core::ExitCode code, const std::string& text) const {
    fs::path to = dir_ / "refused";
    try {
      convert({.source = from, .destination = to});
      ADD_FAILURE() << "no error, expected one about: " << text;
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << "'" << text << "' in: " << e.what();
    }
    EXPECT_FALSE(fs::exists(to));
    for (const auto& entry : fs::directory_iterator(dir_))
      EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }
};

class Families : public Convert, public ::testing::WithParamInterface<std::string> {};

TEST_P(Families, LogitsOfTransformersAndBytesThatComeBack) {
  json g = golden(GetParam());
  auto ids = g["ids"].get<std::vector<int32_t>>();
  auto want = g["logits"].get<std::vector<double>>();
  fs::path from = source(GetParam());
  EXPECT_LE(max_difference(logits(*read_directory(from, DType::f64).model, ids), want), 2e-5);

  auto report = convert({.source = from, .destination = dir_ / "run"});
  EXPECT_EQ(report["verification"]["max_difference"], 0.0);
  EXPECT_LE(max_difference(logits(*on_cpu(dir_ / "run").model, ids), want), 2e-5);
  convert({.source = dir_ / "run", .destination = dir_ / "back"});
  expect_same_tensors(from, dir_ / "back");
}

// Where the machine has transformers: what is exported loads there with nothing missing, and gives the logits of the
// source.
TEST_P(Families, ExportsLoadInTransformers) {
  static const bool found = std::system("python3 -c 'import torch, transformers' > /dev/null 2>&1") == 0;
  if (!found) GTEST_SKIP() << "python3 has no transformers";
  fs::path from = random_source(GetParam());
  ConvertOptions bd{.source = from, .destination = dir_ / "bd", .projector = "bd"};
  bd.qk = GetParam() != "llama";
  convert({.source = from, .destination = dir_ / "run"});
  convert(bd);
  for (auto [run, tolerance] : {std::pair("run", "0"), {"bd", "2e-4"}}) {
    fs::path back = dir_ / (std::string(run) + "-back");
    convert({.source = dir_ / run, .destination = back});
    std::string script = std::string(BASIS_SOURCE_DIR) + "/tests/golden/hf_roundtrip.py";
    EXPECT_EQ(
        std::system(
            ("python3 " + script + " " + from.string() + " " + back.string() + " --tolerance " + tolerance).c_str()),
        0)
        << run;
  }
}

TEST_P(Families, HalfPrecisionWeightsComeBackAsTheyWere) {
  fs::path from = source(GetParam(), DType::bf16);
  convert({.source = from, .destination = dir_ / "run"});
  convert({.source = dir_ / "run", .destination = dir_ / "back"});
  expect_same_tensors(from, dir_ / "back");
}

TEST_P(Families, WhatDoesNotFitIsRefused) {
  auto tensors_of = [&](const std::function<void(json&, NamedTensors&)>& change) {
    return source(GetParam(), DType::f32, change);
  };
  using core::ExitCode;
  auto bad = ExitCode::bad_file;
  expect_refused(tensors_of([](json&, NamedTensors& t) { t.erase(t.begin() + 3); }), bad, "missing");
  expect_refused(tensors_of([](json&, NamedTensors& t) {
                   t[2].second = t[2].second.view({1, t[2].second.numel()});
                 }),
                 bad, "disagree");
  expect_refused(tensors_of([](json& c, NamedTensors&) { c["model_type"] = "mamba"; }), bad, "mamba");
  expect_refused(tensors_of([](json& c, NamedTensors&) { c["vocab_size"] = "many"; }), bad, "vocab_size");
  expect_refused(tensors_of([](json& c, NamedTensors&) { c["vocab_size"] = 900000000; }), bad, "disagree");
  expect_refused(tensors_of([](json& c, NamedTensors&) { c.erase("vocab_size"); }), bad, "nothing");
  expect_refused(tensors_of([](json&, NamedTensors& t) { t[1].second = t[1].second.to(DType::i32); }), bad, "float");
  fs::path from = source(GetParam());
  fs::resize_file(from / "model.safetensors", fs::file_size(from / "model.safetensors") - 5);
  expect_refused(from, bad, "cut short");
  std::ofstream(from / "config.json") << "{\"model_type\": ";
  expect_refused(from, bad, "config.json");
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::Values("gpt2", "llama", "bert", "deepseek_v2"),
                         [](const auto& info) { return info.param; });

// Dense -> BD -> dense leaves the function as it is, whatever the rows, with biases and shared key heads.
TEST_P(Families, BasisDecompositionKeepsTheLogits) {
  bool rotary = GetParam() == "llama";
  auto ids = golden(GetParam())["ids"].get<std::vector<int32_t>>();
  Directory d = read_directory(random_source(GetParam()), DType::f64);
  auto want = logits(*d.model, ids);
  for (const char* basis : {"pivoted", "residual_min", "first", "last"})
    for (bool qk : {false, true})
      for (bool vo : {false, true}) {
        if (qk && rotary) continue;
        SCOPED_TRACE(std::string(basis) + (qk ? " qk" : "") + (vo ? " vo" : ""));
        Regauged bd = to_bd(*d.model, {.basis = basis, .qk = qk, .vo = vo});
        EXPECT_LE(max_difference(logits(*bd.model, ids), want), 1e-10);
        EXPECT_LE(max_difference(logits(*to_dense(*bd.model), ids), want), 1e-10);
        const configs::ModelConfig& m = d.model_config;
        bool latent = m.family == "deepseek_v2", biases = m.family == "gpt2" || m.family == "bert";
        int64_t dk = m.head_width(), dv = latent ? m.value_width() : dk;
        EXPECT_EQ(d.model->parameter_count() - bd.model->parameter_count(),
                  m.n_layer * (m.kv_heads() * (qk * dk * dk + vo * dv * dv) + (biases && qk ? m.d_model : 0)));
      }
  if (rotary) {
    EXPECT_THROW(to_bd(*d.model, {.qk = true}), core::Error);
  }
}

TEST_P(Families, ConvertsToBdAndBack) {
  fs::path from = random_source(GetParam());
  auto ids = golden(GetParam())["ids"].get<std::vector<int32_t>>();
  auto want = logits(*read_directory(from).model, ids);
  ConvertOptions o{.source = from, .destination = dir_ / "bd", .projector = "bd"};
  o.qk = GetParam() != "llama";
  auto report = convert(o);
  EXPECT_LT(report["after"]["parameters"], report["before"]["parameters"]);
  EXPECT_EQ(report["layers"].size(), 2u);
  EXPECT_TRUE(has_bd(on_cpu(dir_ / "bd").model->config()));
  convert({.source = dir_ / "bd", .destination = dir_ / "back"});
  EXPECT_LE(max_difference(logits(*read_directory(dir_ / "back").model, ids), want), 1e-3);
  try {
    convert({.source = from, .destination = dir_ / "x", .to = "hf", .projector = "bd"});
    ADD_FAILURE() << "BD written for Hugging Face";
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::ExitCode::usage);
  }
}

// A head without a basis: found while the model is changed, named, and nothing is left behind.
TEST_F(Convert, ASingularBasisIsRefused) {
  fs::path from = source("llama", DType::f32, [](json&, NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors)
      if (name.ends_with("layers.1.self_attn.v_proj.weight"))
        tensor.slice(0, 4, 6).copy_from(Tensor::zeros({2, 16}, DType::f32));
  });
  for (const char* projector : {"bd", "low_rank_bd"}) {
    ConvertOptions o{.source = from, .destination = dir_ / "refused", .projector = projector};
    o.qk = false, o.keep = std::string(projector) == "bd" ? 0 : 0.99;
    try {
      convert(o);
      ADD_FAILURE() << "no error for " << projector;
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::ExitCode::bad_file) << e.what();
      EXPECT_NE(std::string(e.what()).find("singular"), std::string::npos) << e.what();
    }
    EXPECT_FALSE(fs::exists(o.destination));
    for (const auto& entry : fs::directory_iterator(dir_))
      EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }
}

TEST_F(Convert, ExpertsAreRefused) {
  expect_refused(source("deepseek_v2", DType::f32, [](json& c, NamedTensors&) { c["first_k_dense_replace"] = 1; }),
                 core::ExitCode::bad_file, "expert");
}

TEST_F(Convert, BuffersTiesAndStrangersAreListed) {
  fs::path from = source("gpt2", DType::f32, [](json&, NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors) name = name.substr(std::strlen("transformer."));  // as the first GPT-2 files
    tensors.emplace_back("h.0.attn.bias", Tensor::full({1, 1, 4, 4}, 1, DType::u8));
    tensors.emplace_back("lm_head.weight", tensors[0].second);
    for (const auto& [name, tensor] : NamedTensors(tensors))
      if (name == "wte.weight") tensors.back().second = tensor;
    tensors.emplace_back("score.weight", Tensor::zeros({2, 8}, DType::f32));
  });
  auto tensors = convert({.source = from, .destination = dir_ / "run"})["tensors"];
  EXPECT_EQ(tensors["buffers"], json({"h.0.attn.bias"}));
  EXPECT_EQ(tensors["ties"], json({"lm_head.weight"}));
  EXPECT_EQ(tensors["unexpected"], json({"score.weight"}));
}

TEST_F(Convert, SourcesThatAreNoneAreNamed) {
  auto bad = core::ExitCode::bad_file;
  expect_refused(dir_ / "nowhere", bad, "nothing there");
  fs::path from = source("gpt2");
  std::ofstream(from / "config.json") << "{";
  expect_refused(from, bad, "expected JSON");
  fs::remove(from / "config.json");
  expect_refused(from, bad, "config.json beside the weights");
  fs::remove(from / "model.safetensors");
  expect_refused(from, bad, "a run directory with a checkpoint");
}

TEST_F(Convert, ADestinationWithFilesIsLeftAlone) {
  fs::path from = source("gpt2");
  fs::create_directories(dir_ / "full");
  std::ofstream(dir_ / "full" / "mine") << "x";
  try {
    convert({.source = from, .destination = dir_ / "full"});
    ADD_FAILURE() << "written over";
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::ExitCode::usage);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_ / "full"), fs::directory_iterator()), 1);
}

// Fine-tuning: the model is the checkpoint's where the file is silent, and starts from its weights.
TEST_F(Convert, TrainingStartsFromAConvertedModel) {
  ConvertOptions o{.source = random_source("gpt2"), .destination = dir_ / "bd", .projector = "bd"};
  convert(o);
  std::vector<uint16_t> tokens(400);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = uint16_t(i * i % 23);
  std::ofstream(dir_ / "data.bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(tokens.data()), std::streamsize(2 * tokens.size()));
  std::ofstream(dir_ / "tune.yaml") << "run: {name: tuned, out_dir: " << dir_.string() << ", device: cpu}\n"
                                    << "model: {dropout: 0.25}\n"
                                    << "data: {train: [" << (dir_ / "data.bin").string() << "], val: [], seq_len: 8}\n"
                                    << "train: {init_from: " << (dir_ / "bd").string()
                                    << ", global_batch: 2, max_steps: 2}\noptimizer: {lr: 0}\n";
  configs::Config c = load_training_config((dir_ / "tune.yaml").string(), {});
  EXPECT_EQ(c.model.d_model, 8);
  EXPECT_EQ(c.model.dropout, 0.25);
  EXPECT_EQ(c.model.attention.projector.type, "bd");
  EXPECT_EQ(c.data.tokenizer, "checkpoint");
  ASSERT_EQ(train(c), 0);
  auto before = on_cpu(dir_ / "bd"), after = on_cpu(dir_ / "tuned");
  auto ids = golden("gpt2")["ids"].get<std::vector<int32_t>>();
  EXPECT_EQ(logits(*after.model, ids), logits(*before.model, ids));  // at a rate of 0 the weights stay
  EXPECT_EQ(after.step, 2);
}

// The four checkpoints trained with transformers, where they lie (BASIS_SHARED).
class Checkpoints : public Convert, public ::testing::WithParamInterface<std::string> {};

TEST_P(Checkpoints, ReferenceLogitsAndGreedyContinuation) {
  const char* shared = std::getenv("BASIS_SHARED");
  fs::path from = fs::path(shared ? shared : "") / "checkpoints" / GetParam();
  if (!shared || !fs::exists(from)) GTEST_SKIP() << "set BASIS_SHARED to the directory of checkpoints/" << GetParam();
  Directory d = read_directory(from);
  SafetensorsFile reference(from / "reference.safetensors");
  auto ids = reference.read("input_ids").to_vector<int32_t>();
  auto want = reference.read("logits").to_vector<double>();
  auto [low, high] = std::minmax_element(want.begin(), want.end());
  EXPECT_LE(max_difference(logits(*d.model, ids, 2), want), 2e-4 * (*high - *low));
  ASSERT_TRUE(d.tokenizer);
  if (reference.header().tensors.contains("greedy")) {
    auto greedy = reference.read("greedy").to_vector<int32_t>();
    // The prompt is what the greedy row shares with the first input row.
    size_t prompt = 0;
    while (prompt < greedy.size() && greedy[prompt] == ids[prompt]) ++prompt;
    ASSERT_GT(prompt, 0u);
    std::vector<int32_t> start(greedy.begin(), greedy.begin() + std::ptrdiff_t(prompt));
    auto made = generate(*d.model, start, {.tokens = int64_t(greedy.size() - prompt), .temperature = 0}, DType::f32);
    EXPECT_EQ(made, std::vector<int32_t>(greedy.begin() + std::ptrdiff_t(prompt), greedy.end()));
  }
  convert({.source = from, .destination = dir_ / "run"});
  convert({.source = dir_ / "run", .destination = dir_ / "back"});
  expect_same_tensors(from, dir_ / "back");
  Directory exact = read_directory(from, DType::f64);
  Regauged bd = to_bd(*exact.model, {.qk = GetParam() != "llama"});
  EXPECT_LE(max_difference(logits(*bd.model, ids, 2), logits(*exact.model, ids, 2)), 1e-10);
  if (GetParam() != "gpt2") return;
  auto worst = [](const Regauged& r, const char* pair) {
    double e = 0;
    for (const auto& layer : r.layers) e = std::max(e, layer[pair]["bf16"]["max"].get<double>());
    return e;
  };
  Regauged paper = to_bd(*exact.model, {.basis = "residual_min"});
  EXPECT_GT(worst(paper, "qk"), 20 * worst(bd, "qk"));
  EXPECT_GT(worst(paper, "vo"), 10 * worst(bd, "vo"));
}

// As reference.json says: 200 windows of 256 tokens of WikiText-2's test text, each alone, its first token unscored.
TEST_P(Checkpoints, PerplexityOfTheReference) {
  const char* shared = std::getenv("BASIS_SHARED");
  fs::path from = fs::path(shared ? shared : "") / "checkpoints" / GetParam();
  fs::path text = fs::path(shared ? shared : "") / "data/wikitext2-test.txt";
  if (!shared || !fs::exists(from) || !fs::exists(text)) GTEST_SKIP() << "set BASIS_SHARED to the shared directory";
  std::ifstream file(from / "reference.json");
  json reference = json::parse(file);
  if (!reference.contains("ppl")) GTEST_SKIP() << "no perplexity of " << GetParam();
  convert({.source = from, .destination = dir_ / "run", .verify = false});
  Loaded run = load_model((dir_ / "run").string(), {"run.device=cpu", "data.val=[" + text.string() + "]"});
  EvalDataset windows = open_windows(run.config, run.tokenizer, reference["window"], reference["windows"]);
  EvalResult result = evaluate(*run.model, windows, run.compute, *null_communicator());
  EXPECT_EQ(result.tokens, reference["tokens_scored"].get<int64_t>());
  EXPECT_NEAR(std::exp(result.loss) / reference["ppl"].get<double>(), 1, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Shared, Checkpoints, ::testing::Values("gpt2", "llama", "bert", "deepseek-mla"),
                         [](const auto& info) { return info.param.substr(0, info.param.find('-')); });

}  // namespace
}  // namespace basis::trainers::hf
