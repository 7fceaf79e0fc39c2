// Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "trainers/data/tokenizer.h"

namespace basis::trainers {

// GPT-2's splitting of text into words.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool lstrip = false, rstrip = false;  // takes the white space before or after it along
};

// What defines a byte-level BPE tokenizer. Tokens are written in GPT-2's printable form (a space is U+0120).
struct BpeModel {
  std::map<std::string, uint32_t> vocab;                            // ids without holes beyond 2^20
  std::vector<std::pair<std::string, std::string>> merges;          // the first is applied first
  std::vector<AddedToken> added;                                    // never split; matched before anything else
  std::vector<std::string> patterns = {std::string(kGpt2Pattern)};  // applied one after the other
  bool add_prefix_space = false;
  bool ignore_merges = false;  // a word in the vocabulary is its token, whatever the merges say
};

// Checks the model; `name` stands in error messages. Needs PCRE2, and says so where the build has none.
TokenizerPtr bpe_tokenizer(BpeModel model, const std::string& name);

TokenizerPtr load_gpt2_bpe(const std::filesystem::path& vocab_json, const std::filesystem::path& merges_txt);
TokenizerPtr parse_gpt2_bpe(std::string_view vocab_json, std::string_view merges_txt, const std::string& name);
TokenizerPtr parse_huggingface(std::string_view tokenizer_json, const std::string& name);

// Learns merges until the vocabulary has `vocab_size` entries (fewer when no pair is left that occurs twice): first the
// special tokens, then the 256 bytes, then the merges. The most frequent pair wins, ties by the smaller ids, as in
// Hugging Face's BpeTrainer. Deterministic.
BpeModel train_bpe(std::string_view text, int64_t vocab_size,
                   const std::vector<std::string>& special_tokens = {"<|endoftext|>"});

// Writes vocab.json and merges.txt into `directory`, as Hugging Face reads them.
void save_gpt2_bpe(const BpeModel& model, const std::filesystem::path& directory);

}  // namespace basis::trainers
