#include "trainers/hf/low_rank.h"

#include <fmt/format.h>

#include <Eigen/Dense>

#include "core/factor/basis.h"
#include "core/factor/low_rank.h"
#include "core/gemm/gemm.h"
#include "models/family.h"
#include "trainers/hf/weights.h"

namespace basis::trainers::hf {
namespace {

using configs::ModelConfig;
using core::DType;
using core::Tensor;
using nlohmann::ordered_json;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Matrix>;

constexpr const char* kAttention[] = {"attention/q", "attention/k", "attention/v", "attention/out"};
constexpr const char* kMlp[] = {"mlp/gate", "mlp/up", "mlp/down"};

std::string layer_path(int64_t layer) { return fmt::format("layers/{}/", layer); }

Map matrix(const Tensor& t) { return {t.data<double>(), t.size(0), t.numel() / t.size(0)}; }

Tensor product(const Tensor& a, const Tensor& b) {
  Tensor c = Tensor::empty({a.size(0), b.size(1)}, DType::f64);
  core::matmul(a, false, b, false, c);
  return c;
}

// to[:, i] = from[:, columns[i]] for i < size.
Tensor take(const Tensor& from, const std::vector<int64_t>& columns, int64_t begin, int64_t end) {
  Tensor to = Tensor::empty({from.size(0), end - begin}, DType::f64);
  for (int64_t i = begin; i < end; ++i) matrix(to).col(i - begin) = matrix(from).col(columns[size_t(i)]);
  return to;
}

Tensor take_rows(const Tensor& from, const std::vector<int64_t>& rows) {
  Tensor to = from.empty_like();
  for (size_t i = 0; i < rows.size(); ++i) matrix(to).row(int64_t(i)) = matrix(from).row(rows[i]);
  return to;
}

// E (x - mean)(x - mean)^T, or E x x^T for a layer without a bias to take up the mean.
Tensor weighing(const InputMoments& m, bool bias) {
  Tensor g = m.square.clone();
  if (bias) matrix(g) -= matrix(m.mean) * matrix(m.mean).transpose();
  return g;
}

// What an approximation of one layer's weight leaves to write.
struct Approximation {
  core::LowRankFactors factors;
  Tensor bias;  // undefined without one
};

Approximation approximate(const Weights& from, const std::string& path, int64_t rank, const Calibration& c) {
  Tensor w = from.get(path + "/weight");
  bool bias = from.has(path + "/bias");
  auto moments = c.find(path + "/weight");
  bool weighed = moments != c.end();
  Approximation a{core::truncate(w, rank, weighed ? weighing(moments->second, bias) : Tensor{}), {}};
  if (!bias) return a;
  a.bias = from.get(path + "/bias").clone();  // get may give the model's own
  if (weighed) {
    const Tensor& mean = moments->second.mean;
    matrix(a.bias) += matrix(w) * matrix(mean) - matrix(a.factors.u) * (matrix(a.factors.v) * matrix(mean));
  }
  return a;
}

// The ranks that hold options.keep of each weight.
void set_ranks(ModelConfig& c, const Weights& from, const LowRankOptions& o) {
  auto rank = [&](const char* path) {
    core::Shape shape = from.get(layer_path(0) + path + "/weight").shape();
    int64_t r = core::rank_for(shape[0], shape[1], o.keep, o.for_bd);
    if (core::low_rank_size(shape[0], shape[1], r, o.for_bd) > int64_t(o.keep * double(shape[0] * shape[1])))
      throw core::Error({.where = "low rank",
                         .expected = fmt::format("a share that leaves {} of shape {} a rank", path, shape.str()),
                         .got = fmt::format("{}", o.keep),
                         .code = core::ExitCode::usage});
    return r;
  };
  configs::ProjectorConfig p{.type = "low_rank"};
  p.q_rank = rank("attention/q"), p.k_rank = rank("attention/k"), p.v_rank = rank("attention/v");
  p.out_rank = rank("attention/out");
  c.attention.projector = p;
  for (auto& [layer, attention] : c.layers) attention.projector = p;
  if (o.mlp) c.mlp = {.up_rank = rank("mlp/up"), .down_rank = rank("mlp/down")};
  if (o.mlp) c.mlp_epilogue = false;
}

std::vector<std::string> low_rank_layers(const Weights& w, int64_t layer) {
  std::vector<std::string> paths;
  for (const char* name : kAttention) paths.push_back(layer_path(layer) + name);
  for (const char* name : kMlp) paths.push_back(layer_path(layer) + name);
  std::erase_if(paths, [&](const std::string& p) { return !w.has(p + "/inner"); });
  return paths;
}

std::string short_name(const std::string& path, int64_t layer) { return path.substr(layer_path(layer).size()); }

// Re-gauges the layers `names` below `prefix`, which read the same input; those of full rank read it in the new order.
// Returns the order.
std::vector<int64_t> regauge(const Weights& from, Weights& to, const std::string& prefix,
                             const std::vector<const char*>& names, ordered_json& report) {
  std::vector<Tensor> inner;
  for (const char* name : names)
    if (from.has(prefix + name + "/inner")) inner.push_back(from.get(prefix + name + "/inner"));
  if (inner.empty()) return {};
  std::vector<int64_t> order = core::joint_order(inner);
  int64_t n = int64_t(order.size());
  for (const char* name : names) {
    std::string path = prefix + name;
    if (!from.has(path + "/weight")) continue;
    Tensor w = from.get(path + "/weight");
    if (!from.has(path + "/inner")) {
      to.set(path + "/weight", take(w, order, 0, n));
      continue;
    }
    Tensor v = take(from.get(path + "/inner"), order, 0, n);
    int64_t r = v.size(0);
    std::vector<int64_t> front(static_cast<size_t>(r));
    for (int64_t i = 0; i < r; ++i) front[size_t(i)] = i;
    core::BasisFactors f = core::decompose(v, r, front);
    to.set(path + "/inner", f.c);
    to.set(path + "/weight", product(w, f.t.view({r, r}).transpose(0, 1).contiguous()));  // v = T^T [I, c]
    report[name] = {{"rank", r}, {"condition", f.heads[0].condition}, {"max_c", f.heads[0].largest}};
  }
  return order;
}

// weight inner, or weight [I, inner] whose columns are the channels in `order`.
Tensor full_weight(const Weights& w, const std::string& path, bool bd, const std::vector<int64_t>& order) {
  Tensor outer = w.get(path + "/weight");
  bool low = w.has(path + "/inner");
  Tensor beside = low ? product(outer, w.get(path + "/inner")) : Tensor{};
  if (low && !bd) return beside;
  Tensor full = Tensor::empty({outer.size(0), int64_t(order.size())}, DType::f64);
  int64_t r = outer.size(1);
  for (int64_t i = 0; i < int64_t(order.size()); ++i)
    matrix(full).col(order[size_t(i)]) = i < r ? matrix(outer).col(i) : matrix(beside).col(i - r);
  return full;
}

}  // namespace

bool has_low_rank(const ModelConfig& c) {
  bool any = c.mlp.up_rank || c.mlp.down_rank;
  for (int64_t i = 0; i < c.n_layer; ++i) any |= c.attention_of(i).projector.type == "low_rank";
  return any;
}

bool has_factors(const ModelConfig& c) {
  bool any = (c.mlp.up_rank || c.mlp.down_rank) && c.mlp.form == "factors";
  for (int64_t i = 0; i < c.n_layer; ++i) {
    const auto& p = c.attention_of(i).projector;
    any |= p.type == "low_rank" && p.form == "factors";
  }
  return any;
}

LowRankModel to_low_rank(const models::Model& dense, const LowRankOptions& o) {
  Weights from(dense);
  ModelConfig c = dense.config();
  if (models::latent_attention(c)) c.attention.projector.type = "low_rank", models::make_model(c);  // refuses it
  set_ranks(c, from, o);
  LowRankModel r{.model = empty_model(c, DType::f64)};
  Weights to(*r.model);
  to.copy_common(from);
  r.layers = std::vector<ordered_json>(size_t(c.n_layer), ordered_json::object());
  for_each_layer(c.n_layer, [&](int64_t i) {
    ordered_json& report = r.layers[size_t(i)];
    for (const std::string& path : low_rank_layers(to, i)) {
      int64_t rank = to.get(path + "/inner").size(0);
      Approximation a = approximate(from, path, rank, o.calibration);
      to.set(path + "/weight", a.factors.u), to.set(path + "/inner", a.factors.v);
      if (a.bias) to.set(path + "/bias", a.bias);
      report[short_name(path, i)] = {{"rank", rank}, {"error", a.factors.error}};
    }
  });
  return r;
}

LowRankModel to_low_rank_bd(const models::Model& factors) {
  Weights from(factors);
  ModelConfig c = factors.config();
  auto bd = [](configs::ProjectorConfig& p) { p.form = p.type == "low_rank" ? "bd" : p.form; };
  bd(c.attention.projector);
  for (auto& [layer, attention] : c.layers) bd(attention.projector);
  c.mlp.form = "bd";
  LowRankModel r{.model = empty_model(c, DType::f64)};
  Weights to(*r.model);
  to.copy_common(from);
  r.layers = std::vector<ordered_json>(size_t(c.n_layer), ordered_json::object());
  for_each_layer(c.n_layer, [&](int64_t i) {
    ordered_json& report = r.layers[size_t(i)];
    std::string at = layer_path(i);
    if (c.attention_of(i).projector.type == "low_rank") {
      auto order = regauge(from, to, at, {"attention/q", "attention/k", "attention/v"}, report);
      if (!order.empty()) to.set_order(at + "attention/order", order);
      order = regauge(from, to, at, {"attention/out"}, report);
      if (!order.empty()) to.set_order(at + "attention/out_order", order);
    }
    auto order = regauge(from, to, at, {"mlp/gate", "mlp/up"}, report);
    if (!order.empty()) to.set_order(at + "mlp/order", order);
    order = regauge(from, to, at, {"mlp/down"}, report);
    for (const char* name : {"mlp/gate/weight", "mlp/gate/bias", "mlp/up/weight", "mlp/up/bias"})
      if (!order.empty() && to.has(at + name)) to.set(at + name, take_rows(to.get(at + name), order));
  });
  return r;
}

std::unique_ptr<models::Model> multiply_out(const models::Model& low_rank) {
  Weights from(low_rank);
  ModelConfig source = low_rank.config(), c = source;
  auto dense = [](configs::ProjectorConfig& p) {
    if (p.type == "low_rank") p = {};
  };
  dense(c.attention.projector);
  for (auto& [layer, attention] : c.layers) dense(attention.projector);
  c.mlp = {};
  auto model = empty_model(c, low_rank.parameters()[0].var.dtype());
  Weights to(*model);
  to.copy_common(from);
  for (int64_t i = 0; i < c.n_layer; ++i) {
    std::string at = layer_path(i);
    const auto& p = source.attention_of(i).projector;
    auto write = [&](const std::string& name, bool bd, const std::string& order) {
      if (!from.has(at + name + "/weight")) return;
      auto channels = from.order(at + order, to.get(at + name + "/weight").size(1));
      to.set(at + name + "/weight", full_weight(from, at + name, bd, channels));
    };
    if (p.type == "low_rank") {
      for (const char* name : {"attention/q", "attention/k", "attention/v"})
        write(name, p.form == "bd", "attention/order");
      write("attention/out", p.form == "bd", "attention/out_order");
    }
    for (const char* name : {"mlp/gate", "mlp/up"}) write(name, source.mlp.form == "bd", "mlp/order");
    write("mlp/down", source.mlp.form == "bd", "");
  }
  return model;
}

}  // namespace basis::trainers::hf
