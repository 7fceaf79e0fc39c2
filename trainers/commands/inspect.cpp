// basis inspect: what a checkpoint, shard, run directory or config holds.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "core/utf8.h"
#include "trainers/checkpoint.h"
#include "trainers/commands/commands.h"
#include "trainers/data/shard.h"
#include "trainers/hdf5.h"
#include "trainers/session.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (int64_t e : shape) text += (text.empty() ? "" : ", ") + std::to_string(e);
  return "[" + text + "]";
}

void print_group(const Hdf5File& file, const std::string& group, int64_t& elements, int64_t& bytes) {
  for (const std::string& name : file.list(group)) {
    std::string path = (group == "/" ? "" : group) + "/" + name;
    if (!file.is_dataset(path)) {
      print_group(file, path, elements, bytes);
      continue;
    }
    DatasetInfo info = file.info(path);
    fmt::print("  {:<60} {:<5} {}\n", core::printable(path), name_of(info.type), shape_text(info.shape));
    elements += info.elements;
    bytes += info.bytes;
  }
}

void inspect_hdf5(const fs::path& path) {
  Hdf5File file = Hdf5File::open(path);
  for (const std::string& name : file.attributes("/")) {
    if (name == "config" || name == "tokenizer") continue;
    std::string value;
    try {
      value = file.get_string("/", name);
    } catch (const core::Error&) {
      value = fmt::format("{}", file.get_double("/", name));
    }
    fmt::print("{}: {}\n", core::printable(name), core::printable(value));
  }
  int64_t elements = 0, bytes = 0;
  print_group(file, "/", elements, bytes);
  fmt::print("{} elements, {:.1f} MiB\n", elements, double(bytes) / 1048576);
  if (file.exists("/tokens")) {
    verify_shard(path);
    fmt::print("the tokens are what was written (checksum)\n");
  }
  if (file.has_attribute("/", "config")) fmt::print("config:\n{}", core::printable(file.get_string("/", "config")));
}

}  // namespace

void add_inspect_command(CLI::App& app, int&) {
  auto path = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("inspect", "What a checkpoint, shard, run directory or config holds");
  command->add_option("path", *path, "checkpoint.h5, shard.h5, run directory or config.yaml")
      ->required()
      ->check(path_given);
  command->callback([path] {
    fs::path p = *path;
    std::error_code ignored;
    if (fs::is_directory(p, ignored)) p = resolve_checkpoint(p);
    if (p.extension() == ".yaml" || p.extension() == ".yml")
      fmt::print("{}", configs::dump_yaml(configs::load_config(p.string())));
    else
      inspect_hdf5(p);
  });
}

}  // namespace basis::trainers
