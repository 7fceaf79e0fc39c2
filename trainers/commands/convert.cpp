// basis convert: Hugging Face <-> Basis.
#include "trainers/hf/convert.h"

#include <fmt/format.h>

#include <memory>

#include "trainers/commands/commands.h"

namespace basis::trainers {

namespace {

// Options that would be ignored are refused.
void check(const hf::ConvertOptions& o) {
  auto only = [&](bool given, const char* option, std::string_view projector) {
    if (given && !o.projector.starts_with(projector))
      throw core::Error({.where = option,
                         .expected = fmt::format("--projector {} beside it", projector),
                         .got = o.projector.empty() ? "none" : o.projector,
                         .code = core::ExitCode::usage});
  };
  only(!o.layers.empty(), "--layers", "bd");
  only(o.keep > 0, "--keep", "low_rank");
  only(!o.calibration.empty(), "--calibration", "low_rank");
}

}  // namespace

void add_convert_command(CLI::App& app, int&) {
  struct Options {
    hf::ConvertOptions convert;
    std::string source, destination;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "convert", "Hugging Face <-> Basis, dense <-> BD, low rank; ends with a report and a check of the logits");
  command->add_option("source", o->source, "Hugging Face directory, run directory or checkpoint.h5")
      ->required()
      ->check(path_given);
  command->add_option("destination", o->destination, "New directory")->required()->check(path_given);
  command->add_option("--to", o->convert.to, "basis: a run directory; hf: what transformers loads (default: the other)")
      ->check(CLI::IsMember({"basis", "hf"}));
  command->add_option("--projector", o->convert.projector, "Attention's projections (default: as they are)")
      ->check(CLI::IsMember({"dense", "bd", "low_rank", "low_rank_bd"}));
  command->add_option("--basis", o->convert.basis, "How bd chooses its rows")
      ->check(CLI::IsMember({"pivoted", "residual_min", "first", "last"}))
      ->capture_default_str();
  command->add_option("--layers", o->convert.layers, "bd: only these layers, counted from 0 (default: all)")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--qk,!--no-qk", o->convert.qk, "bd: decompose the key projections (not under rotary positions)")
      ->capture_default_str();
  command->add_flag("--vo,!--no-vo", o->convert.vo, "bd: decompose the value projections")->capture_default_str();
  command->add_option("--device", o->convert.device, "bd: where it is computed")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command
      ->add_option(
          "--keep", o->convert.keep,
          "low_rank: share of each weight's numbers that is left (0.8); without it a low-rank model is re-gauged")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--calibration", o->convert.calibration,
                      "low_rank: text or token shard whose activations weigh the errors (default: all inputs alike)");
  command->add_option("--calibration-tokens", o->convert.calibration_tokens, "How much of that text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--mlp,!--no-mlp", o->convert.mlp, "low_rank: the MLPs too, not attention alone")
      ->capture_default_str();
  command->add_option("--dtype", o->convert.dtype, "Of the stored weights (default: as the source stores them)")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  command->add_flag("--verify,!--no-verify", o->convert.verify, "Compare logits before and after on random tokens")
      ->capture_default_str();
  command->add_flag("--json", o->json, "The report as JSON on stdout");
  command->callback([o] {
    check(o->convert);
    o->convert.source = o->source, o->convert.destination = o->destination;
    auto report = hf::convert(o->convert);
    if (o->json)
      fmt::print("{}\n", report.dump());
    else
      fmt::print("{}", hf::describe(report));
  });
}

}  // namespace basis::trainers
