// basis train: from a YAML file, or on with a run directory.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "trainers/comm/launch.h"
#include "trainers/commands/commands.h"
#include "trainers/session.h"
#include "trainers/trainer.h"

namespace basis::trainers {

void add_train_command(CLI::App& app, int& exit_code) {
  struct Options {
    std::string config;
    std::vector<std::string> overrides;
    bool dry_run = false;
    int gpus = 0, ranks = 0;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train, resume or fine-tune by a YAML config");
  command->add_option("config", o->config, "config.yaml, or a run directory to go on with")
      ->required()
      ->check(path_given);
  command->add_option("overrides", o->overrides, "key.path=value ...");
  command->add_flag("--dry-run", o->dry_run, "Print the resolved config, the parameter count and a memory estimate");
  auto* gpus = command->add_option("--gpus", o->gpus, "Train on so many GPUs of this host, one process each");
  gpus->check(CLI::PositiveNumber);
  command->add_option("--ranks", o->ranks, "Train with so many processes on the CPU of this host")
      ->check(CLI::PositiveNumber)
      ->excludes(gpus);
  command->footer("Keys, with type [default] and meaning:\n" + configs::config_help());
  command->callback([o, &exit_code] {
    std::vector<std::string> overrides = o->overrides;
    if (o->gpus) overrides.push_back("run.device=cuda");
    if (o->ranks) overrides.push_back("run.device=cpu");
    configs::Config config = load_training_config(o->config, overrides);
    if (o->dry_run)
      fmt::print("{}", describe_run(config));
    else if (int count = std::max(o->gpus, o->ranks); count > 0 && !is_local_rank())
      exit_code = run_local_ranks(count, o->gpus > 0, config.dist.timeout_s);
    else
      exit_code = train(config, join(config, find_launch()));
  });
}

}  // namespace basis::trainers
