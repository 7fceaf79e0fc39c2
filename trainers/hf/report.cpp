// The report of a conversion, for people.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "trainers/hf/convert.h"

namespace basis::trainers::hf {
namespace {

using nlohmann::ordered_json;

// One row per layer and pair: the worst head.
std::string layer_table(const ordered_json& layers) {
  std::string text =
      fmt::format("{:<6} {:<4} {:>10} {:>8} {:>10} {:>10} {:>10}   {}\n", "layer", "", "cond(T)", "max|C|", "f32",
                  "f16", "bf16", "worst head: relative error of the product after rounding");
  for (size_t i = 0; i < layers.size(); ++i)
    for (const auto& [pair, row] : layers[i].items()) {
      auto max = [&row = row](const char* key) { return row[key]["max"].get<double>(); };
      text += fmt::format("{:<6} {:<4} {:>10.3g} {:>8.3g} {:>10.2e} {:>10.2e} {:>10.2e}\n", i, pair, max("condition"),
                          max("max_c"), max("f32"), max("f16"), max("bf16"));
    }
  return text;
}

// One row per kind of weight: the median and the worst layer.
std::string low_rank_table(const ordered_json& layers) {
  std::map<std::string, std::map<std::string, std::vector<double>>> kinds;
  for (const auto& layer : layers)
    for (const auto& [name, row] : layer.items())
      for (const auto& [key, value] : row.items()) kinds[name][key].push_back(value.get<double>());
  std::string text = fmt::format("{:<14} {:>5} {:>20} {:>10} {:>10}   {}\n", "weight", "rank", "error median (max)",
                                 "cond(T)", "max|C|", "relative error, worst layer's condition and entry");
  for (auto& [name, columns] : kinds) {
    auto middle = [&columns = columns](const char* key) {
      auto& x = columns[key];
      std::sort(x.begin(), x.end());
      return x.empty() ? "-" : fmt::format("{:.3f} ({:.3f})", x[x.size() / 2], x.back());
    };
    auto worst = [&columns = columns](const char* key) {
      const auto& x = columns[key];
      return x.empty() ? "-" : fmt::format("{:.3g}", *std::max_element(x.begin(), x.end()));
    };
    text += fmt::format("{:<14} {:>5} {:>20} {:>10} {:>10}\n", name, worst("rank"), middle("error"), worst("condition"),
                        worst("max_c"));
  }
  return text;
}

std::string tensors_line(const ordered_json& names, const char* what) {
  if (names.empty()) return "";
  std::string text = fmt::format("{} {}:", names.size(), what);
  for (size_t i = 0; i < names.size() && i < 4; ++i) text += " " + names[i].get<std::string>();
  return text + (names.size() > 4 ? " ...\n" : "\n");
}

}  // namespace

std::string describe(const ordered_json& r) {
  auto mib = [](const ordered_json& side) { return side["bytes"].get<double>() / 1048576; };
  std::string text =
      fmt::format("{} -> {} ({}, {})\nparameters {} -> {}, weights {:.1f} MiB -> {:.1f} MiB\n",
                  r["source"].get<std::string>(), r["destination"].get<std::string>(), r["family"].get<std::string>(),
                  r["dtype"].get<std::string>(), r["before"]["parameters"].get<int64_t>(),
                  r["after"]["parameters"].get<int64_t>(), mib(r["before"]), mib(r["after"]));
  if (auto layers = r.find("layers"); layers != r.end()) text += layer_table(*layers);
  if (auto low = r.find("low_rank"); low != r.end()) text += low_rank_table(*low);
  text += tensors_line(r["tensors"]["unexpected"], "tensors without a place in the model, left out");
  text += tensors_line(r["tensors"]["buffers"], "buffers left out");
  text += tensors_line(r["tensors"]["ties"], "tensors that repeat another");
  if (auto a = r.find("approximation"); a != r.end())
    text += fmt::format("low rank moves the logits of random tokens by up to {:.3g} of a range of {:.4g}\n",
                        (*a)["max_difference"].get<double>(), (*a)["range"].get<double>());
  if (auto v = r.find("verification"); v != r.end())
    text +=
        fmt::format("logits on random tokens: max difference {:.3g} of a range of {:.4g} (allowed {:.3g})\n",
                    (*v)["max_difference"].get<double>(), (*v)["range"].get<double>(), (*v)["tolerance"].get<double>());
  return text + fmt::format("{:.2f} s\n", r["seconds"].get<double>());
}

}  // namespace basis::trainers::hf
