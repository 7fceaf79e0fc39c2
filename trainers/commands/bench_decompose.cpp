#include "trainers/commands/bench_decompose.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/factor/basis.h"
#include "core/parallel.h"
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

// The worst condition number of a layer. K's and V's rows lie apart where both find room, as in its channel order.
double decompose_layer(const DecomposeBench& o, const core::Tensor& k, const core::Tensor& v,
                       core::BasisChoice choice) {
  std::vector<int64_t> taken;
  double worst = 0;
  for (auto [w, partner] : {std::pair(&k, &v), {&v, &k}}) {  // each stands for the other's queries or output
    auto rows = core::choose_basis(*w, o.head_dim, choice, taken, *partner);
    for (const core::HeadFactor& h : core::decompose(*w, o.head_dim, rows).heads) worst = std::max(worst, h.condition);
    if (choice == core::BasisChoice::pivoted && o.width >= 2 * o.head_dim) taken = rows;
  }
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
    fmt::print("K and V of {} layers, {} heads x {} over {} channels, f64 on the CPU\n{:<14}{:>10}{:>16}\n", o.layers,
               o.heads, o.head_dim, o.width, "basis", "seconds", "worst cond(T)");
  for (auto [name, choice] : {std::pair("first", core::BasisChoice::first),
                              {"residual_min", core::BasisChoice::residual_min},
                              {"pivoted", core::BasisChoice::pivoted}}) {
    std::vector<double> worst(static_cast<size_t>(o.layers));
    double start = now();
    core::parallel_for(o.layers, 1, [&](int64_t begin, int64_t end) {  // random weights: nothing is singular
      for (int64_t i = begin; i < end; ++i)
        worst[size_t(i)] = decompose_layer(o, weights[size_t(2 * i)], weights[size_t(2 * i + 1)], choice);
    });
    double seconds = now() - start, condition = *std::max_element(worst.begin(), worst.end());
    rows.push_back({{"basis", name}, {"seconds", seconds}, {"worst_condition", condition}});
    if (!o.json) fmt::print("{:<14}{:>10.3f}{:>16.3g}\n", name, seconds, condition);
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
