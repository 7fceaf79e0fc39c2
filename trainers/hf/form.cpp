#include "trainers/hf/form.h"

#include <fmt/format.h>

#include "trainers/hf/low_rank.h"
#include "trainers/hf/regauge.h"
#include "trainers/step.h"

namespace basis::trainers::hf {
namespace {

using nlohmann::ordered_json;

[[noreturn]] void refuse(std::string where, std::string expected, std::string got, std::string remedy = "") {
  throw core::Error({.where = std::move(where),
                     .expected = std::move(expected),
                     .got = std::move(got),
                     .remedy = std::move(remedy),
                     .code = core::ExitCode::usage});
}

Calibration calibration_of(const ConvertOptions& o, const models::Model& model, const TokenizerPtr& tokenizer) {
  if (o.calibration.empty()) return {};
  return calibrate(model, tokenizer, o.calibration, o.calibration_tokens);
}

Reformed low_rank(const ConvertOptions& o, std::unique_ptr<models::Model> model, const TokenizerPtr& tokenizer,
                  ordered_json& report) {
  bool bd = o.projector == "low_rank_bd";
  Reformed r;
  if (o.keep > 0) {
    if (has_low_rank(model->config())) model = multiply_out(*model);
    if (has_bd(model->config())) model = to_dense(*model);
    LowRankModel low = to_low_rank(
        *model, {.keep = o.keep, .for_bd = bd, .mlp = o.mlp, .calibration = calibration_of(o, *model, tokenizer)});
    r.model = r.approximation = std::move(low.model);
    report["keep"] = o.keep;
    report["low_rank"] = std::move(low.layers);
  } else if (has_factors(model->config()) && bd) {
    r.model = std::move(model);
  } else {
    refuse("--projector " + o.projector, "--keep SHARE", "none", "for example --keep 0.8");
  }
  if (!bd) return r;
  LowRankModel low = to_low_rank_bd(*r.model);
  r.model = std::move(low.model);
  if (!report.contains("low_rank")) report["low_rank"] = ordered_json::array();
  for (size_t i = 0; i < low.layers.size(); ++i)
    for (auto& [name, row] : low.layers[i].items()) report["low_rank"][i][name].update(row);
  return r;
}

}  // namespace

Reformed change_form(const ConvertOptions& o, bool basis, std::unique_ptr<models::Model> model,
                     const TokenizerPtr& tokenizer, ordered_json& report) {
  if (o.projector.starts_with("low_rank")) return low_rank(o, std::move(model), tokenizer, report);
  bool dense = !basis || !o.projector.empty();
  if (dense && has_low_rank(model->config())) model = multiply_out(*model);
  if (dense && has_bd(model->config())) model = to_dense(*model);
  if (o.projector != "bd") return {std::move(model), {}};
  RegaugeOptions options{.basis = o.basis, .qk = o.qk, .vo = o.vo, .device = choose_device(o.device)};
  for (int64_t layer : o.layers) {
    if (layer < 0 || layer >= model->config().n_layer)
      refuse("--layers", fmt::format("layers from 0 to {}", model->config().n_layer - 1), std::to_string(layer));
    options.layers[layer] = {.type = "bd", .basis = o.basis, .qk = o.qk, .vo = o.vo};
  }
  Regauged r = to_bd(*model, options);
  report["basis"] = o.basis;
  report["device"] = name_of(options.device);
  report["layers"] = std::move(r.layers);
  return {std::move(r.model), {}};
}

}  // namespace basis::trainers::hf
