#include "trainers/commands/approximate.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "models/family.h"
#include "trainers/run/files.h"
#include "trainers/run/series_svg.h"

namespace basis::trainers {
namespace {

using configs::MixerConfig;
using models::Var;
using Json = nlohmann::ordered_json;

struct Approximation {
  std::string kind;
  int64_t k;
  MixerConfig mixer;
  double loss = 0;
  std::vector<double> difference, norm;  // squared, by layer
  double error(size_t layer) const { return std::sqrt(difference[layer] / std::max(norm[layer], 1e-300)); }
  double mean_error() const {
    double sum = 0;
    for (size_t i = 0; i < norm.size(); ++i) sum += error(i);
    return sum / double(norm.size());
  }
};

[[noreturn]] void refuse(const std::string& spec) {
  throw core::Error({.where = "--approximate",
                     .expected = "conv, recover, window or topk, then :k= and numbers, as in conv:k=4,16,64",
                     .got = spec,
                     .code = core::ExitCode::usage});
}

MixerConfig mixer_for(const std::string& kind, int64_t k, const std::string& spec) {
  MixerConfig m;
  m.k = k;
  if (kind == "conv" || kind == "recover") {
    m.type = "conv_basis";
    m.breakpoints = kind == "recover" ? "recover" : "uniform";
  } else if (kind == "window") {
    m.type = "window";
    m.sink = k >= 8 ? 4 : k > 1 ? 1 : 0;  // the share of StreamingLLM (arXiv 2309.17453)
    m.window = k - m.sink;
  } else if (kind == "topk") {
    m.type = "topk";
  } else {
    refuse(spec);
  }
  return m;
}

std::vector<Approximation> parse(const std::vector<std::string>& specs) {
  std::vector<Approximation> list;
  for (const std::string& spec : specs) {
    size_t colon = spec.find(":k=");
    if (colon == std::string::npos) refuse(spec);
    std::string kind = spec.substr(0, colon);
    const char *at = spec.data() + colon + 3, *end = spec.data() + spec.size();
    do {
      int64_t k = 0;
      auto [next, error] = std::from_chars(at, end, k);
      if (error != std::errc() || k < 1 || (next != end && *next != ',')) refuse(spec);
      list.push_back({kind, k, mixer_for(kind, k, spec)});
      at = next + 1;
    } while (at <= end);
  }
  return list;
}

configs::ModelConfig with_mixer(configs::ModelConfig c, const MixerConfig& m) {
  c.dropout = 0;
  c.attention.mixer = m;
  for (auto& [layer, attention] : c.layers) attention.mixer = m;
  return c;
}

double loss_with(const Loaded& loaded, const EvalDataset& data, const MixerConfig& mixer) {
  auto model = models::make_model(with_mixer(loaded.model->config(), mixer));
  std::map<std::string, Var> trained;
  for (models::Parameter& p : loaded.model->parameters()) trained.emplace(p.path, p.var);
  for (models::Parameter& p : model->parameters()) {
    auto value = trained.find(p.path);
    p.var.set_value(value != trained.end()
                        ? value->second.value()  // what only this mixer has starts at zero
                        : core::Tensor::zeros(p.var.shape(), loaded.model->parameters()[0].var.dtype(),
                                              loaded.model->parameters()[0].var.device()));
  }
  return evaluate(*model, data, loaded.compute).loss;
}

// One evaluation of the model as it is; beside each of its mixers every approximation mixes the same q, k and v.
EvalResult measure_errors(const Loaded& loaded, const EvalDataset& data, std::vector<Approximation>& list) {
  const configs::ModelConfig& c = loaded.model->config();
  std::vector<std::unique_ptr<models::Mixer>> mixers;
  for (Approximation& a : list) {
    mixers.push_back(models::make_mixer(with_mixer(c, a.mixer), 0, c.family != "bert"));
    a.difference.assign(size_t(c.n_layer), 0), a.norm.assign(size_t(c.n_layer), 0);
  }
  models::Pass pass{.compute = loaded.compute};
  models::MixObserver observe = [&](int layer, const Var& q, const Var& k, const Var& v, const Var& mixed) {
    auto exact = mixed.value().to_vector<double>();
    for (size_t i = 0; i < list.size(); ++i) {
      auto got = mixers[i]->mix(pass, q, k, v).value().to_vector<double>();
      for (size_t e = 0; e < exact.size(); ++e) {
        double difference = got[e] - exact[e];
        list[i].difference[size_t(layer)] += difference * difference;
        list[i].norm[size_t(layer)] += exact[e] * exact[e];
      }
    }
  };
  return evaluate(*loaded.model, data, loaded.compute, &observe);
}

Json as_json(const Approximation& a, double exact_loss) {
  Json layers = Json::array();
  for (size_t i = 0; i < a.norm.size(); ++i) layers.push_back(a.error(i));
  return {{"kind", a.kind},          {"k", a.k},        {"loss", a.loss}, {"loss_difference", a.loss - exact_loss},
          {"error", a.mean_error()}, {"layers", layers}};
}

void print(const std::vector<Approximation>& list, double exact_loss) {
  fmt::print("as trained: loss {:.6f} nats/token\n{:<9}{:>6}{:>12}{:>12}{:>9}   error of each layer\n", exact_loss,
             "mixer", "k", "loss", "difference", "error");
  for (const Approximation& a : list) {
    fmt::print("{:<9}{:>6}{:>12.6f}{:>+12.6f}{:>9.4f}  ", a.kind, a.k, a.loss, a.loss - exact_loss, a.mean_error());
    for (size_t i = 0; i < a.norm.size(); ++i) fmt::print(" {:.3f}", a.error(i));
    fmt::print("\n");
  }
}

void plot(const std::vector<Approximation>& list, const std::string& file) {
  std::map<std::string, Series> series;
  for (const Approximation& a : list) {
    series[a.kind].name = a.kind;
    series[a.kind].points.emplace_back(double(a.k), a.mean_error());
  }
  SeriesPlot p{.title = "relative error of attention's output, mean over layers", .x_label = "k", .y_label = "error"};
  for (auto& [kind, s] : series) {
    std::sort(s.points.begin(), s.points.end());
    p.series.push_back(s);
  }
  write_file(file, series_svg(p), false);
}

}  // namespace

void approximate(const Loaded& loaded, const EvalDataset& data, const std::vector<std::string>& specs,
                 const std::string& svg, bool json) {
  std::vector<Approximation> list = parse(specs);
  EvalResult exact = measure_errors(loaded, data, list);
  for (Approximation& a : list) a.loss = loss_with(loaded, data, a.mixer);
  if (!svg.empty()) plot(list, svg);
  if (!json) return print(list, exact.loss);
  Json rows = Json::array();
  for (const Approximation& a : list) rows.push_back(as_json(a, exact.loss));
  fmt::print(
      "{}\n",
      Json{{"step", loaded.step}, {"loss", exact.loss}, {"tokens", exact.tokens}, {"approximations", rows}}.dump());
}

}  // namespace basis::trainers
