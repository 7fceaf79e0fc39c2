#include "trainers/hf/bd_init.h"

#include <fmt/format.h>

#include <map>

#include "trainers/hf/regauge.h"

namespace basis::trainers::hf {
namespace {

using configs::ModelConfig;
using configs::ProjectorConfig;

[[noreturn]] void refuse(int64_t layer, std::string expected, std::string got, std::string remedy) {
  throw core::Error({.where = fmt::format("projector of layer {}", layer),
                     .expected = std::move(expected),
                     .got = std::move(got),
                     .remedy = std::move(remedy),
                     .code = core::ExitCode::usage});
}

std::string slices(const ProjectorConfig& p) {
  return fmt::format("qk_slice: {}, vo_slice: {}", p.qk ? p.qk_slice : "any", p.vo ? p.vo_slice : "any");
}

bool converts(const ProjectorConfig& p) { return p.type == "bd" && p.init == "converted"; }

}  // namespace

void convert_initialisation(models::Model& model, uint64_t seed) {
  ModelConfig c = model.config();
  std::map<int64_t, ProjectorConfig> converted;
  for (int64_t i = 0; i < c.n_layer; ++i)
    if (ProjectorConfig p = c.attention_of(i).projector; converts(p)) converted[i] = p;
  if (converted.empty()) return;
  for (const auto& [i, p] : converted) c.layers.try_emplace(i, c.attention).first->second.projector = {};
  auto dense = models::make_model(c);
  dense->initialize(seed, core::cpu, model.parameters().at(0).var.dtype());
  Regauged bd = to_bd(*dense, {.layers = converted, .report = false});
  for (const auto& [i, p] : converted) {
    std::string got = slices(bd.model->config().attention_of(i).projector), due = slices(p);
    if (got != due) refuse(i, got + ", where this basis falls", due, "set them so, or basis: pivoted, or init: direct");
  }
  std::map<std::string, models::Parameter> values;
  for (models::Parameter& p : bd.model->parameters()) values.emplace(p.path, p);
  for (models::Parameter& p : model.parameters()) {
    p.var.value().copy_from(values.at(p.path).var.value());
    *p.pace = *values.at(p.path).pace;
  }
}

}  // namespace basis::trainers::hf
