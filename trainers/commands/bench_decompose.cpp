#include "trainers/commands/bench_decompose.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/factor/decompose.h"
#include "core/rng.h"

namespace basis::trainers {
namespace {

using Json = nlohmann::ordered_json;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

core::Tensor random_weight(const DecomposeBench& o, uint64_t seed) {
  core::HostRandom random(seed, 0);
  core::Tensor w = core::Tensor::empty({o.heads * o.head_dim, o.width}, core::DType::f64);
  std::generate_n(w.data<double>(), w.numel(), [&] { return random.normal(); });
  return w;
}

using Factors = std::vector<core::BasisFactors>;

// Of the K of all layers, then of their V. Their rows lie apart where both find room, as in a layer's channel order;
// each stands for the other's queries or output.
Factors decompose_layers(const DecomposeBench& o, const std::vector<core::Tensor>& weights, core::BasisChoice choice,
                         core::Device device) {
  auto n = size_t(o.layers);
  std::vector<core::BasisTask> k(n), v(n);
  for (size_t i = 0; i < n; ++i)
    k[i] = {weights[2 * i], weights[2 * i + 1], {}}, v[i] = {weights[2 * i + 1], weights[2 * i], {}};
  Factors all = core::decompose_all(k, o.head_dim, choice, device);
  if (choice == core::BasisChoice::pivoted && o.width >= 2 * o.head_dim)
    for (size_t i = 0; i < n; ++i) v[i].taken = all[i].rows;
  Factors more = core::decompose_all(v, o.head_dim, choice, device);
  std::move(more.begin(), more.end(), std::back_inserter(all));
  return all;
}

double worst_condition(const Factors& factors) {
  double worst = 0;
  for (const core::BasisFactors& f : factors)
    for (const core::HeadFactor& h : f.heads) worst = std::max(worst, h.condition);
  return worst;
}

}  // namespace

void bench_decompose(const DecomposeBench& o) {
  if (o.width < o.head_dim)
    throw core::Error({.where = "--width",
                       .expected = "at least --head-dim",
                       .got = std::to_string(o.width),
                       .code = core::ExitCode::usage});
  std::vector<core::Tensor> weights;
  for (int64_t i = 0; i < 2 * o.layers; ++i) weights.push_back(random_weight(o, uint64_t(i)));
  Json rows = Json::array();
  if (!o.json)
    fmt::print("K and V of {} layers, {} heads x {} over {} channels, f64\n{:<14}{:<8}{:>10}{:>12}{:>16}{:>12}\n",
               o.layers, o.heads, o.head_dim, o.width, "basis", "device", "seconds", "first call", "worst cond(T)",
               "same rows");
  for (auto [name, choice] : {std::pair("first", core::BasisChoice::first),
                              {"residual_min", core::BasisChoice::residual_min},
                              {"pivoted", core::BasisChoice::pivoted}}) {
    Factors on_cpu;
    for (core::Device device : {core::cpu, o.device}) {
      if (device.is_cpu() && !on_cpu.empty()) continue;  // once
      double times[2] = {};
      Factors factors;
      for (double& seconds : times) {
        factors.clear();
        double start = now();
        factors = decompose_layers(o, weights, choice, device);
        seconds = now() - start;
      }
      if (device.is_cpu()) on_cpu = factors;
      size_t same = 0;
      for (size_t i = 0; i < factors.size(); ++i) same += factors[i].rows == on_cpu[i].rows;
      double seconds = times[1], worst = worst_condition(factors);
      rows.push_back({{"basis", name},
                      {"device", core::name_of(device)},
                      {"seconds", seconds},
                      {"seconds_first", times[0]},
                      {"worst_condition", worst},
                      {"same_rows", double(same) / double(factors.size())}});
      if (!o.json)
        fmt::print("{:<14}{:<8}{:>10.3f}{:>12.3f}{:>16.3g}{:>8}/{}\n", name, core::name_of(device), seconds, times[0],
                   worst, same, factors.size());
    }
  }
  if (o.json)
    fmt::print("{}\n", Json{{"bench", "decompose"},
                            {"layers", o.layers},
                            {"heads", o.heads},
                            {"head_dim", o.head_dim},
                            {"width", o.width},
                            {"rows", rows}}
                           .dump(1));
}

}  // namespace basis::trainers
