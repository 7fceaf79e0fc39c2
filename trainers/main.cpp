// The program: parses the command line, runs one command, and turns errors into a message and an exit code.
#include <fmt/format.h>

#include <new>

#include "core/error.h"
#include "core/utf8.h"
#include "trainers/commands/commands.h"
#include "trainers/commands/features.h"

int main(int argc, char** argv) {
  using namespace basis;
  CLI::App app{"Basis: train transformers with basis-decomposed and conv-basis attention", "basis"};
  app.set_version_flag("--version", trainers::version_text());
  app.require_subcommand(1);
  int exit_code = 0;
  for (auto add : {trainers::add_train_command, trainers::add_eval_command, trainers::add_generate_command,
                   trainers::add_gradcheck_command, trainers::add_convert_command, trainers::add_tokenize_command,
                   trainers::add_compare_command, trainers::add_inspect_command, trainers::add_bench_command,
                   trainers::add_doctor_command})
    add(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    int code = app.exit(e);  // prints help, version or what is wrong
    return code == 0 ? 0 : int(core::ExitCode::usage);
  } catch (const core::Error& e) {
    fmt::print(stderr, "error: {}\n", core::printable(e.what()));
    return int(e.code());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error: out of memory (lower micro_batch, seq_len or the model size)\n");
    return int(core::ExitCode::runtime);
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", core::printable(e.what()));
    return int(core::ExitCode::runtime);
  }
  return exit_code;
}
