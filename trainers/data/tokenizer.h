// Text <-> token ids. Tokenizers are immutable and safe to use from several threads.
//
// Types: byte (256 ids), char (the code points of a training text, sorted), bpe (byte-level, GPT-2's files or Hugging
// Face's tokenizer.json), wordpiece (BERT's vocab.txt). `encode` adds no beginning- or end-of-text token.
// Unusable files and unknown characters are core::Error with ExitCode::bad_file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace basis::trainers {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string_view type() const = 0;  // "byte", "char", "bpe", "wordpiece"
  virtual int64_t vocab_size() const = 0;     // ids are in [0, vocab_size)
  virtual std::vector<uint32_t> encode(std::string_view text) const = 0;
  virtual std::string decode(std::span<const uint32_t> ids) const = 0;  // throws for an id that is out of range
  // The id of a special token ("<|endoftext|>", "[MASK]"), if the vocabulary has it.
  virtual std::optional<uint32_t> special(std::string_view /*token*/) const { return std::nullopt; }
  // All of it as JSON, for checkpoints and shards; parse_tokenizer reads it back.
  virtual std::string serialise() const = 0;
  // FNV-1a of serialise(): equal for equal tokenizers, on every machine.
  uint64_t hash() const;

 protected:
  void check_ids(std::span<const uint32_t> ids) const;
};

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

TokenizerPtr byte_tokenizer();
// The vocabulary is the set of code points of `text`, sorted: id 0 is the smallest. `name` stands in error messages.
TokenizerPtr char_tokenizer(std::string_view text, const std::string& name = "text");

// The inverse of serialise(); `name` stands in error messages.
TokenizerPtr parse_tokenizer(std::string_view json, const std::string& name = "tokenizer");

// From a file or directory: what save_tokenizer wrote, Hugging Face's tokenizer.json, vocab.json with merges.txt beside
// it, or vocab.txt. A directory is searched for these in this order. "byte" is the byte tokenizer.
TokenizerPtr load_tokenizer(const std::filesystem::path& path);
void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& path);

}  // namespace basis::trainers
