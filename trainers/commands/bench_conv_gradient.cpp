#include "trainers/commands/bench_conv_gradient.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/var.h"
#include "core/rng.h"
#include "ops/conv_basis/conv_basis.h"
#include "ops/naive_attention/naive_attention.h"
#include "trainers/run/files.h"
#include "trainers/run/series_svg.h"

namespace basis::trainers {
namespace {

using autograd::Var;
using core::Tensor;
using Json = nlohmann::ordered_json;

Tensor slow(const ConvGradientBench& o, uint64_t stream, core::Device device) {
  constexpr double kKept = 0.98;
  core::HostRandom random(3, stream);
  int64_t row = o.heads * o.head_dim;
  std::vector<float> x(size_t(o.tokens * row));
  for (size_t i = 0; i < x.size(); ++i) {
    double fresh = random.normal();
    x[i] = i < size_t(row) ? float(fresh) : float(kKept * x[i - size_t(row)] + std::sqrt(1 - kKept * kKept) * fresh);
  }
  return Tensor::from(x, {1, o.tokens, o.heads, o.head_dim}).to(device);
}

std::vector<double> joined(const std::vector<Tensor>& gradients) {
  std::vector<double> all;
  for (const Tensor& g : gradients) {
    auto values = g.to_vector<double>();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

double distance(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i)
    difference += (got[i] - want[i]) * (got[i] - want[i]), norm += want[i] * want[i];
  return std::sqrt(difference / norm);
}

}  // namespace

void bench_conv_gradient(const ConvGradientBench& o, core::Device device) {
  std::vector<Var> leaves;
  for (uint64_t stream : {1, 2, 3}) leaves.emplace_back(slow(o, stream, device), true);
  Tensor cotangent = slow(o, 4, device);
  auto gradient = [&](const Var& out) { return joined(autograd::gradients(out, leaves, cotangent)); };
  auto dense = gradient(ops::naive_attention(leaves[0], leaves[1], leaves[2]));
  std::vector<int64_t> segments = o.segments;
  for (int64_t k = 1; o.segments.empty() && k < 2 * o.tokens; k *= 2) segments.push_back(std::min(k, o.tokens));

  Json rows = Json::array();
  Series paper{.name = "paper's"}, exact{.name = "of the forward"};
  if (!o.json)
    fmt::print("distance from dense attention's gradient on {}, {} tokens, {} heads x {}\n{:>8}{:>12}{:>18}\n",
               name_of(device), o.tokens, o.heads, o.head_dim, "k", "paper's", "of the forward");
  for (int64_t k : segments) {
    auto with = [&](bool paper_gradient) {
      ops::ConvBasisOptions options{.k = k, .paper_gradient = paper_gradient};
      return distance(gradient(ops::conv_basis_attention(leaves[0], leaves[1], leaves[2], options)), dense);
    };
    double a = with(true), b = with(false);
    rows.push_back({{"k", k}, {"paper", a}, {"exact", b}});
    paper.points.emplace_back(double(k), a), exact.points.emplace_back(double(k), b);
    if (!o.json) fmt::print("{:>8}{:>12.2e}{:>18.2e}\n", k, a, b);
  }
  if (!o.svg.empty())
    write_file(o.svg,
               series_svg({.title = "distance from dense attention's gradient",
                           .x_label = "k",
                           .y_label = "relative error",
                           .series = {paper, exact}}),
               false);
  if (o.json)
    fmt::print("{}\n", Json{{"bench", "conv_gradient"},
                            {"tokens", o.tokens},
                            {"heads", o.heads},
                            {"head_dim", o.head_dim},
                            {"rows", rows}}
                           .dump(1));
}

}  // namespace basis::trainers
