// basis tokenize: text to token shards; trains a byte-level BPE vocabulary.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "trainers/commands/commands.h"
#include "trainers/data/bpe.h"
#include "trainers/data/files.h"
#include "trainers/data/shard.h"
#include "trainers/data/source.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> inputs;
  std::string tokenizer = "byte", output, train_bpe_to;
  int64_t vocab_size = 1024;
};

std::string all_text(const std::vector<fs::path>& files) {
  std::string text;
  for (const fs::path& f : files) text += read_file(f);
  return text;
}

// The shard must not take the place of a text it is made from.
void refuse_to_overwrite(const fs::path& input, const std::string& output) {
  std::error_code ignored;
  if (!output.empty() && fs::equivalent(input, output, ignored))
    throw core::Error({.where = "--output",
                       .expected = "another file than the inputs",
                       .got = output,
                       .code = core::ExitCode::usage});
}

void run(const Options& o) {
  std::vector<fs::path> files = expand_paths(o.inputs);
  for (const fs::path& f : files) refuse_to_overwrite(f, o.output);
  TokenizerPtr tokenizer;
  if (!o.train_bpe_to.empty()) {
    std::error_code error;
    fs::create_directories(o.train_bpe_to, error);
    save_gpt2_bpe(train_bpe(all_text(files), o.vocab_size), o.train_bpe_to);
    tokenizer = load_tokenizer(o.train_bpe_to);
    fmt::print("{}: vocab.json and merges.txt with {} tokens\n", o.train_bpe_to, tokenizer->vocab_size());
  } else {
    tokenizer =
        o.tokenizer == "char" ? char_tokenizer(all_text(files), files.front().string()) : load_tokenizer(o.tokenizer);
  }
  if (o.output.empty()) {
    if (o.train_bpe_to.empty())
      throw core::Error(
          {.where = "--output", .expected = "the shard to write", .got = "nothing", .code = core::ExitCode::usage});
    return;
  }
  std::vector<uint32_t> tokens;
  std::vector<uint64_t> documents;
  size_t bytes = 0;
  for (const fs::path& f : files) {  // a document a file
    std::string text = read_file(f);
    bytes += text.size();
    documents.push_back(tokens.size());
    auto ids = tokenizer->encode(text);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  if (tokens.empty()) throw bad_file(files.front(), "text", "nothing to tokenize");
  write_shard(o.output, tokens, documents, *tokenizer);
  fmt::print("{}: {} tokens of {} files, {:.3f} bytes a token, {} tokenizer with {} ids\n", o.output, tokens.size(),
             files.size(), tokens.empty() ? 0 : double(bytes) / double(tokens.size()), tokenizer->type(),
             tokenizer->vocab_size());
}

}  // namespace

void add_tokenize_command(CLI::App& app, int&) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tokenize", "Text to a token shard; trains a byte-level BPE vocabulary");
  command->add_option("inputs", o->inputs, "Text files: paths or globs")->required()->check(path_given);
  command->add_option("--tokenizer", o->tokenizer, "byte, char, or a directory or file of a BPE tokenizer")
      ->capture_default_str();
  command->add_option("--output", o->output, "Shard to write (.h5)");
  auto* train =
      command->add_option("--train-bpe", o->train_bpe_to,
                          "Learn a vocabulary from the inputs and write vocab.json and merges.txt to this directory");
  command->add_option("--vocab-size", o->vocab_size, "Of --train-bpe")
      ->check(CLI::Range(257, 1 << 20))
      ->needs(train)
      ->capture_default_str();
  command->callback([o] { run(*o); });
}

}  // namespace basis::trainers
