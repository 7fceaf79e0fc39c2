#include "trainers/optim/groups.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace basis::trainers {
namespace {

using models::Parameter;

// Indices of the parameters that match; at least one.
std::vector<size_t> matches(const std::string& key, const std::string& glob, const std::vector<Parameter>& parameters) {
  std::vector<size_t> found;
  std::vector<std::string> names;
  for (const Parameter& p : parameters) {
    bool named = core::glob_match(glob, p.path) || core::glob_match(glob + "/*", p.path);
    if (named && !p.buffer) found.push_back(names.size());
    names.push_back(p.path);
  }
  if (found.empty())
    throw core::Error({.where = key,
                       .expected = "a glob that matches a parameter",
                       .got = "'" + glob + "', which matches none",
                       .remedy = "nearest name: " + core::nearest(glob, names),
                       .code = core::ExitCode::usage});
  return found;
}

std::string group_key(size_t i) { return fmt::format("optimizer.groups[{}].match", i); }

std::string line(const std::string& key, const std::string& glob, const std::vector<Parameter>& parameters) {
  std::vector<size_t> found = matches(key, glob, parameters);
  std::string text = fmt::format("# {} {}: {} parameters:", key, glob, found.size());
  for (size_t i : found) text += " " + parameters[i].path;
  return text + "\n";
}

}  // namespace

std::vector<GroupSettings> group_settings(const configs::OptimizerConfig& c, const std::vector<Parameter>& parameters) {
  std::vector<GroupSettings> settings;
  for (const Parameter& p : parameters) settings.push_back({1, p.var.dim() >= 2 ? c.weight_decay : 0});
  for (size_t i = 0; i < c.groups.size(); ++i)
    for (size_t k : matches(group_key(i), c.groups[i].match, parameters)) {
      settings[k].lr_scale = c.groups[i].lr_scale.value_or(settings[k].lr_scale);
      settings[k].weight_decay = c.groups[i].weight_decay.value_or(settings[k].weight_decay);
    }
  return settings;
}

void freeze(const configs::TrainConfig& c, std::vector<Parameter> parameters) {
  for (const std::string& glob : c.frozen)
    for (size_t k : matches("train.frozen", glob, parameters)) parameters[k].var.set_requires_grad(false);
  if (trainable_count(parameters) == 0)
    throw core::Error({.where = "train.frozen",
                       .expected = "a parameter left to train",
                       .got = "all of them frozen",
                       .code = core::ExitCode::usage});
}

int64_t trainable_count(const std::vector<Parameter>& parameters) {
  int64_t n = 0;
  for (const Parameter& p : parameters) n += p.var.requires_grad() ? p.var.value().numel() : 0;
  return n;
}

std::string describe_groups(const configs::Config& c, const std::vector<Parameter>& parameters) {
  std::string text;
  for (const std::string& glob : c.train.frozen) text += line("train.frozen", glob, parameters);
  for (size_t i = 0; i < c.optimizer.groups.size(); ++i)
    text += line(group_key(i), c.optimizer.groups[i].match, parameters);
  return text;
}

std::string describe_paces(const configs::OptimizerConfig& c, const std::vector<Parameter>& parameters) {
  double low = 1, high = 1;
  int count = 0;
  for (const Parameter& p : parameters)
    low = std::min(low, p.pace->rate), high = std::max(high, p.pace->rate), count += p.pace->rate != 1;
  if (count == 0 || !c.gauge_rates) return "";
  return fmt::format(
      "{} re-gauged parameters learn at {:.3g} to {:.3g} times the learning rate (optimizer.gauge_rates)", count, low,
      high);
}

}  // namespace basis::trainers
