// basis train: from a YAML file, or on with a run directory.
#include <fmt/format.h>

#include <memory>

#include "trainers/commands/commands.h"
#include "trainers/session.h"
#include "trainers/trainer.h"

namespace basis::trainers {

void add_train_command(CLI::App& app, int& exit_code) {
  struct Options {
    std::string config;
    std::vector<std::string> overrides;
    bool dry_run = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train, resume or fine-tune by a YAML config");
  command->add_option("config", o->config, "config.yaml, or a run directory to go on with")->required();
  command->add_option("overrides", o->overrides, "key.path=value ...");
  command->add_flag("--dry-run", o->dry_run, "Print the resolved config, the parameter count and a memory estimate");
  command->footer("Keys, with type [default] and meaning:\n" + configs::config_help());
  command->callback([o, &exit_code] {
    configs::Config config = load_training_config(o->config, o->overrides);
    if (o->dry_run)
      fmt::print("{}", describe_run(config));
    else
      exit_code = train(config);
  });
}

}  // namespace basis::trainers
