#include "trainers/commands/bench_conv.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/arena.h"
#include "core/profile.h"
#include "ops/attention_features/attention_features.h"
#include "ops/conv_basis/conv_basis.h"
#include "ops/fused_attention/fused_attention.h"
#include "ops/low_rank_attention/low_rank_attention.h"
#include "ops/pointwise/pointwise.h"
#include "trainers/commands/bench_timing.h"
#include "trainers/run/svg_axis.h"

namespace basis::trainers {
namespace {

using autograd::Var;
using Json = nlohmann::ordered_json;

// The exponent e of time ~ length^e: the slope of the least-squares line through the logarithms from 16k on (all
// lengths where there are not two that long).
double exponent(const std::vector<std::pair<double, double>>& points) {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  int long_ones = 0;
  for (auto [length, ms] : points) long_ones += length >= 16384;
  for (auto [length, ms] : points) {
    if (long_ones >= 2 && length < 16384) continue;
    double a = std::log(length), b = std::log(ms);
    ++n, x += a, y += b, xx += a * a, xy += a * b;
  }
  return n < 2 ? std::nan("") : (n * xy - x * y) / (n * xx - x * x);
}

struct Series {
  std::string name;
  int64_t k = 0, rank = 0, blocks = 0;  // conv-basis, low rank, or neither: fused
  std::vector<std::pair<double, double>> forward, both;
};

// A call to be timed, and the tensors that it is differentiated by.
struct Call {
  std::vector<Var> inputs;
  std::function<Var()> run;
  double direct = 0;  // share of the rows of conv-basis attention that do not go through the FFT
};

Call call_of(const Series& s, const ConvBench& o, const core::Shape& shape, core::DType dtype, core::Device device) {
  Var v = random_var(shape, dtype, device, 3);
  core::Shape wide = shape;
  if (s.rank) wide[3] = s.rank;
  Var q = random_var(wide, dtype, device, 1), k = random_var(wide, dtype, device, 2);
  if (o.spread != 1) q = Var(ops::scale(q, o.spread).value(), true);
  if (s.rank) {
    ops::LowRankOptions low{.causal = !o.full};
    if (s.blocks) low.mask = ops::shifted_blocks(s.blocks, !o.full, shape[1], shape[1]).to(device);
    q = Var(ops::attention_features(q, {}).value(), true), k = Var(ops::attention_features(k, {}).value(), true);
    return {{q, k, v}, [=] { return ops::low_rank_attention(q, k, v, low); }, 0};
  }
  if (s.k) {
    ops::ConvBasisOptions conv;
    conv.causal = !o.full, conv.tile = o.tile, conv.window = o.window, conv.k = s.k;
    return {{q, k, v},
            [=] { return ops::conv_basis_attention(q, k, v, conv); },
            ops::conv_basis_direct_share(q.value(), k.value(), v.value(), conv)};
  }
  ops::AttentionOptions fused{.causal = !o.full};
  return {{q, k, v}, [=] { return ops::fused_attention(q, k, v, fused); }, 0};
}

// The kernels of one call, longest first, in microseconds; empty where nothing can tell.
Json kernels_of(core::Device device, const std::function<void()>& call) {
  Json list = Json::array();
  if (!device.is_cuda() || !core::kernel_profiler()) return list;
  for (const core::KernelTime& k : core::kernel_profiler()(device, call))
    list.push_back({{"name", k.name}, {"us", k.seconds * 1e6}, {"launches", k.launches}, {"idle_us", k.idle * 1e6}});
  return list;
}

void print_kernels(const char* what, const Json& list) {
  double all = 0, idle = 0;
  for (const Json& k : list) all += k["us"].get<double>(), idle += k["idle_us"].get<double>();
  fmt::print("  {}: {:.0f} us in kernels, {:.0f} between them\n", what, all, idle);
  for (const Json& k : list)
    fmt::print("  {:>9.1f} us {:>4} launches  {:.90}\n", k["us"].get<double>(), k["launches"].get<int64_t>(),
               k["name"].get<std::string>());
}

std::string plot(const std::vector<Series>& all, const std::string& title) {
  double low_x = 1e300, high_x = 0, low_y = 1e300, high_y = 0;
  for (const Series& s : all)
    for (const auto* line : {&s.forward, &s.both})
      for (auto [x, y] : *line)
        low_x = std::min(low_x, x), high_x = std::max(high_x, x), low_y = std::min(low_y, y),
        high_y = std::max(high_y, y);
  Axis x = make_axis(low_x, std::max(high_x, low_x * 1.01), 6, true, false);
  Axis y = make_axis(low_y, std::max(high_y, low_y * 1.01), 6, true, true);
  x.begin = 70, x.end = 560, y.begin = 360, y.end = 50;
  static constexpr const char* colours[] = {"#888888", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"};
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 420\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"760\" height=\"420\" fill=\"white\"/>\n<text x=\"70\" y=\"24\" font-size=\"15\">{}</text>\n"
      "<text x=\"70\" y=\"40\">milliseconds by tokens; solid: forward, dashed: forward + backward</text>\n",
      title);
  for (double length = std::exp2(std::ceil(std::log2(low_x))); length <= high_x; length *= 4)
    svg += fmt::format("<text x=\"{:.1f}\" y=\"380\" text-anchor=\"middle\">{}</text>\n", x.pixel(length),
                       length >= 1048576 ? fmt::format("{:g}M", length / 1048576)
                       : length >= 1024  ? fmt::format("{:g}k", length / 1024)
                                         : fmt::format("{:g}", length));
  for (double tick : y.ticks)
    svg += fmt::format(
        "<line x1=\"70\" x2=\"560\" y1=\"{0:.1f}\" y2=\"{0:.1f}\" stroke=\"#dddddd\"/>\n"
        "<text x=\"62\" y=\"{1:.1f}\" text-anchor=\"end\">{2:g}</text>\n",
        y.pixel(tick), y.pixel(tick) + 4, tick);
  for (size_t i = 0; i < all.size(); ++i) {
    const char* colour = colours[i % std::size(colours)];
    for (bool both : {false, true}) {
      std::string points;
      for (auto [a, b] : both ? all[i].both : all[i].forward)
        points += fmt::format("{:.1f},{:.1f} ", x.pixel(a), y.pixel(b));
      svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", points, colour,
                         both ? " stroke-dasharray=\"6 4\"" : "");
    }
    svg += fmt::format("<text x=\"575\" y=\"{}\" fill=\"{}\">{}</text>\n", 70 + 20 * i, colour, all[i].name);
  }
  return svg + "</svg>\n";
}

}  // namespace

void bench_conv(const ConvBench& o, core::Device device, core::DType dtype) {
  std::vector<int64_t> lengths = o.lengths;
  if (lengths.empty())
    for (int64_t n = 1024; n <= (device.is_cuda() ? 1048576 : 16384); n *= device.is_cuda() ? 4 : 2)
      lengths.push_back(n);
  std::vector<Series> all{{.name = "fused"}};
  for (int64_t k : o.segments) all.push_back({.name = fmt::format("conv-basis k={}", k), .k = k});
  for (int64_t r : o.ranks) {
    all.push_back({.name = fmt::format("low rank r={}", r), .rank = r});
    if (o.blocks) all.push_back({.name = fmt::format("low rank r={} /{}", r, o.blocks), .rank = r, .blocks = o.blocks});
  }
  Json rows = Json::array();
  if (!o.json)
    fmt::print(
        "conv-basis attention on {}/{}, batch {}, {} heads x {}, {}, logits' spread {:g}; medians of {}, ms\n{:>9}  "
        "{:<18}{:>12}{:>14}{:>13}{:>10}\n",
        name_of(device), name_of(dtype), o.batch, o.heads, o.head_dim, o.full ? "full" : "causal", o.spread, o.repeats,
        "tokens", "", "forward", "and backward", "peak MiB", "direct");
  for (int64_t n : lengths) {
    core::Shape shape{o.batch, n, o.heads, o.head_dim};
    for (size_t i = 0; i < all.size(); ++i) {
      if (i == 0 && o.fused_up_to > 0 && n > o.fused_up_to) continue;
      Call call = call_of(all[i], o, shape, dtype, device);
      core::empty_cache(device);
      size_t before = core::memory_stats(device).in_use;
      core::reset_peak(device);
      Timing t = time_op(device, o.repeats, call.inputs, call.run, 1);
      double peak = double(core::memory_stats(device).peak - before) / 1048576;
      all[i].forward.emplace_back(double(n), t.forward * 1e3), all[i].both.emplace_back(double(n), t.both * 1e3);
      rows.push_back({{"tokens", n},
                      {"name", all[i].name},
                      {"k", all[i].k},
                      {"rank", all[i].rank},
                      {"blocks", all[i].blocks},
                      {"forward_ms", t.forward * 1e3},
                      {"forward_backward_ms", t.both * 1e3},
                      {"peak_mib", peak},
                      {"direct", call.direct}});
      if (!o.json)
        fmt::print("{:>9}  {:<18}{:>12.3f}{:>14.3f}{:>13.0f}{:>10}\n", n, all[i].name, t.forward * 1e3, t.both * 1e3,
                   peak, all[i].k ? fmt::format("{:.2f} %", 100 * call.direct) : "");
      if (!o.kernels) continue;
      Json forward = kernels_of(device, [&] {
        autograd::NoGrad no_grad;
        call.run();
      });
      core::Tensor cotangent = random_var(call.run().shape(), dtype, device, 99).value();
      Json both = kernels_of(device, [&] { autograd::gradients(call.run(), call.inputs, cotangent); });
      if (!o.json) print_kernels("forward", forward), print_kernels("forward and backward", both);
      rows.back()["kernels"] = {{"forward", forward}, {"forward_backward", both}};
    }
  }
  Json growth = Json::object();
  for (const Series& s : all)
    if (s.forward.size() > 1)
      growth[s.name] = {{"forward", exponent(s.forward)}, {"forward_backward", exponent(s.both)}};
  if (!o.svg.empty()) {
    std::ofstream file(o.svg);
    file << plot(
        all, fmt::format("Attention on {}, {}, {} heads x {}", name_of(device), name_of(dtype), o.heads, o.head_dim));
    if (!file) throw core::Error({.where = o.svg, .expected = "a file that can be written"});
  }
  if (o.json) {
    Json result{{"bench", "conv"},
                {"device", name_of(device)},
                {"dtype", name_of(dtype)},
                {"batch", o.batch},
                {"heads", o.heads},
                {"head_dim", o.head_dim},
                {"causal", !o.full},
                {"tile", o.tile},
                {"window", o.window},
                {"spread", o.spread},
                {"rows", rows},
                {"exponent", growth}};
    return fmt::print("{}\n", result.dump(1));
  }
  for (const auto& [name, e] : growth.items())
    fmt::print("time of {} grows as tokens^{:.2f} forward, ^{:.2f} with backward\n", name, e["forward"].get<double>(),
               e["forward_backward"].get<double>());
}

}  // namespace basis::trainers
