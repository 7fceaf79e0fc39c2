// The report of a conversion, for people.
#include <fmt/format.h>

#include "trainers/hf/convert.h"

namespace basis::trainers::hf {
namespace {

using nlohmann::ordered_json;

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
  text += tensors_line(r["tensors"]["unexpected"], "tensors without a place in the model, left out");
  text += tensors_line(r["tensors"]["buffers"], "buffers left out");
  text += tensors_line(r["tensors"]["ties"], "tensors that repeat another");
  if (auto v = r.find("verification"); v != r.end())
    text +=
        fmt::format("logits on random tokens: max difference {:.3g} of a range of {:.4g} (allowed {:.3g})\n",
                    (*v)["max_difference"].get<double>(), (*v)["range"].get<double>(), (*v)["tolerance"].get<double>());
  return text + fmt::format("{:.2f} s\n", r["seconds"].get<double>());
}

}  // namespace basis::trainers::hf
