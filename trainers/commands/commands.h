// The subcommands of `basis`. Each adds itself to the program and, when chosen, does its work and sets the exit code.
#pragma once

#include <CLI/CLI.hpp>

namespace basis::trainers {

// For options that name a file or directory: an empty text is a usage error.
inline std::string path_given(const std::string& path) {
  return path.empty() ? "expected a path, got an empty text" : std::string();
}

void add_train_command(CLI::App& app, int& exit_code);
void add_eval_command(CLI::App& app, int& exit_code);
void add_generate_command(CLI::App& app, int& exit_code);
void add_gradcheck_command(CLI::App& app, int& exit_code);
void add_convert_command(CLI::App& app, int& exit_code);
void add_tokenize_command(CLI::App& app, int& exit_code);
void add_compare_command(CLI::App& app, int& exit_code);
void add_inspect_command(CLI::App& app, int& exit_code);
void add_bench_command(CLI::App& app, int& exit_code);
void add_doctor_command(CLI::App& app, int& exit_code);

}  // namespace basis::trainers
