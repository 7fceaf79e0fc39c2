// basis eval: loss and perplexity of a run or checkpoint.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "trainers/commands/approximate.h"
#include "trainers/commands/commands.h"
#include "trainers/session.h"
#include "trainers/step.h"

namespace basis::trainers {

void add_eval_command(CLI::App& app, int& exit_code) {
  struct Options {
    std::string checkpoint;
    std::vector<std::string> overrides, approximate;
    std::string svg;
    int64_t batches = 0, window = 0, windows = 0;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "eval", "Loss, perplexity and accuracy of a run or checkpoint on its validation data, or on data.val=...");
  command->add_option("checkpoint", o->checkpoint, "run directory or checkpoint.h5")->required()->check(path_given);
  command->add_option("overrides", o->overrides, "key.path=value ... over the config saved in the checkpoint");
  command->add_option("--batches", o->batches, "Global batches to evaluate (0: all)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  auto* window = command->add_option(
      "--window", o->window, "Score disjoint windows of so many tokens alone, the first token of each unscored");
  window->check(CLI::PositiveNumber);
  command->add_option("--windows", o->windows, "With --window: only so many (0: all)")
      ->check(CLI::NonNegativeNumber)
      ->needs(window);
  auto* mixers = command->add_option(
      "--approximate", o->approximate,
      "Replace every mixer: conv:k=4,16,64, recover:..., window:... (sinks and a window) or topk:...; "
      "several. Loss, and each layer's error on the activations of the model as it is");
  command->add_option("--svg", o->svg, "With --approximate: file for a plot of the error against k")->needs(mixers);
  command->add_flag("--json", o->json, "The result as JSON on stdout");
  command->callback([o] {
    Loaded loaded = load_model(o->checkpoint, o->overrides);
    loaded.config.eval.batches = o->batches;
    std::optional<EvalDataset> val =
        o->window ? std::optional(open_windows(loaded.config, loaded.tokenizer, o->window, o->windows))
                  : open_data(loaded.config, loaded.tokenizer, false).val;
    if (!val)
      throw core::Error({.where = "data.val",
                         .expected = "validation data",
                         .got = "none",
                         .remedy = "pass data.val=FILE",
                         .code = core::ExitCode::usage});
    if (!o->approximate.empty()) return approximate(loaded, *val, o->approximate, o->svg, o->json);
    auto start = std::chrono::steady_clock::now();
    EvalResult r = evaluate(*loaded.model, *val, loaded.compute);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (o->json) {
      fmt::print("{}\n", nlohmann::ordered_json{{"step", loaded.step},
                                                {"loss", r.loss},
                                                {"perplexity", std::exp(r.loss)},
                                                {"accuracy", r.accuracy},
                                                {"tokens", r.tokens},
                                                {"seconds", seconds}}
                             .dump());
    } else {
      fmt::print(
          "step {}: loss {:.6f} nats/token, perplexity {:.4f}, accuracy {:.4f}, over {} tokens, {:.0f} a second\n",
          loaded.step, r.loss, std::exp(r.loss), r.accuracy, r.tokens, double(r.tokens) / seconds);
    }
  });
}

}  // namespace basis::trainers
