// basis generate: text from a prompt.
#include "trainers/generate.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <limits>
#include <memory>

#include "core/utf8.h"
#include "trainers/commands/commands.h"
#include "trainers/session.h"

namespace basis::trainers {
namespace {

struct Options {
  std::string checkpoint, prompt = "\n";
  std::vector<std::string> overrides;
  GenerateOptions generate;
};

// Text as it comes, a token at a time: bytes as they are, but on a terminal whole characters, control characters
// written out.
class Output {
 public:
  void operator()(std::string_view text) {
    held_ += text;
    flush(terminal_ ? core::complete_utf8(held_) : held_.size());
  }
  void finish() {
    flush(held_.size());
    fmt::print("\n");
  }

 private:
  void flush(size_t bytes) {
    std::string text = held_.substr(0, bytes);
    held_.erase(0, bytes);
    fmt::print("{}", terminal_ ? core::printable(text) : text);
    std::fflush(stdout);
  }

  bool terminal_ = ::isatty(STDOUT_FILENO);
  std::string held_;
};

void run(const Options& o) {
  Loaded loaded = load_model(o.checkpoint, o.overrides);
  if (!loaded.tokenizer)
    throw core::Error({.where = o.checkpoint,
                       .expected = "a checkpoint with a tokenizer",
                       .got = "none",
                       .code = core::ExitCode::bad_file});
  auto ids = loaded.tokenizer->encode(o.prompt);
  Output output;
  output(o.prompt);
  auto print = [&](int32_t token) {
    uint32_t id = uint32_t(token);
    output(loaded.tokenizer->decode({&id, 1}));
    return true;
  };
  generate(*loaded.model, std::vector<int32_t>(ids.begin(), ids.end()), o.generate, loaded.compute, print);
  output.finish();
}

}  // namespace

void add_generate_command(CLI::App& app, int&) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Text from a prompt");
  command->add_option("checkpoint", o->checkpoint, "run directory or checkpoint.h5")->required()->check(path_given);
  command->add_option("overrides", o->overrides, "key.path=value ...");
  command->add_option("--prompt", o->prompt, "Start of the text")->capture_default_str();
  command->add_option("--tokens", o->generate.tokens, "To generate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--temperature", o->generate.temperature, "0: the likeliest token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", o->generate.top_k, "Choose among the k likeliest; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-p", o->generate.top_p, "Choose among the likeliest that hold this mass")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command->add_option("--seed", o->generate.seed, "Of the choices")
      ->check(CLI::Range(int64_t{0}, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  command->callback([o] { run(*o); });
}

}  // namespace basis::trainers
