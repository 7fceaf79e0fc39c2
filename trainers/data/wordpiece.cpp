#include "trainers/data/wordpiece.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/utf8.h"
#include "trainers/data/bpe_json.h"
#include "trainers/data/files.h"
#include "trainers/data/unicode.h"

namespace basis::trainers {
namespace {

using core::append_utf8;
using core::code_point;
using core::CodePoint;
using core::kInvalid;

constexpr size_t kMaxWord = 100;  // characters; longer words are [UNK], as in BERT

bool between(char32_t c, char32_t first, char32_t last) { return c >= first && c <= last; }

bool is_space(char32_t c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0xa0 || c == 0x1680 || between(c, 0x2000, 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_dropped(char32_t c) { return c == 0xfffd || c == kInvalid || is_control(c); }

bool is_ideograph(char32_t c) {
  return between(c, 0x4e00, 0x9fff) || between(c, 0x3400, 0x4dbf) || between(c, 0x20000, 0x2a6df) ||
         between(c, 0x2a700, 0x2b81f) || between(c, 0x2b820, 0x2ceaf) || between(c, 0xf900, 0xfaff) ||
         between(c, 0x2f800, 0x2fa1f);
}

class WordPiece : public Tokenizer {
 public:
  WordPiece(std::string_view vocab, bool lower_case, const std::string& name) : vocab_(vocab), lower_(lower_case) {
    for (size_t at = 0; at < vocab.size();) {
      size_t end = std::min(vocab.find('\n', at), vocab.size());
      std::string token(vocab.substr(at, end - at));
      if (token.ends_with('\r')) token.pop_back();
      for (size_t i = 0; i < token.size();) {
        CodePoint c = code_point(token, i);
        if (c.value == kInvalid)
          throw bad_file(name, "UTF-8", fmt::format("other bytes in line {}", tokens_.size() + 1));
        i += size_t(c.length);
      }
      if (!ids_.emplace(token, uint32_t(tokens_.size())).second)
        throw bad_file(name, "distinct tokens", fmt::format("\"{}\" again in line {}", token, tokens_.size() + 1));
      tokens_.push_back(std::move(token));
      at = end + 1;
    }
    auto unknown = ids_.find("[UNK]");
    if (unknown == ids_.end()) throw bad_file(name, "the token [UNK] in the vocabulary", "none");
    unknown_ = unknown->second;
  }
  std::string_view type() const override { return "wordpiece"; }
  int64_t vocab_size() const override { return int64_t(tokens_.size()); }
  std::optional<uint32_t> special(std::string_view token) const override {
    auto it = token.starts_with('[') ? ids_.find(std::string(token)) : ids_.end();
    return it == ids_.end() ? std::nullopt : std::optional(it->second);
  }
  std::string serialise() const override {
    nlohmann::json j = tokenizer_json("wordpiece");
    j["vocab"] = vocab_;
    j["lower_case"] = lower_;
    return j.dump();
  }

  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> ids;
    std::string word;
    std::vector<size_t> starts;  // of the word's characters
    std::u32string letters;
    auto flush = [&] {
      if (!word.empty()) encode_word(word, starts, ids);
      word.clear(), starts.clear();
    };
    for (size_t at = 0; at < text.size();) {
      if (size_t length = special_length(text.substr(at)); length > 0) {
        flush();
        ids.push_back(ids_.at(std::string(text.substr(at, length))));
        at += length;
        continue;
      }
      CodePoint c = code_point(text, at);
      at += size_t(c.length);
      if (is_space(c.value)) {
        flush();
        continue;
      }
      if (is_dropped(c.value)) continue;
      bool ideograph = is_ideograph(c.value);
      letters.clear();
      if (lower_)
        append_folded(letters, c.value);
      else
        letters += c.value;
      for (char32_t letter : letters) {
        bool alone = ideograph || is_punctuation(letter);
        if (alone) flush();
        starts.push_back(word.size());
        append_utf8(word, letter);
        if (alone) flush();
      }
    }
    flush();
    return ids;
  }

  // Words with single spaces between: the text up to case, accents and spacing.
  std::string decode(std::span<const uint32_t> ids) const override {
    check_ids(ids);
    std::string text;
    for (uint32_t id : ids) {
      const std::string& token = tokens_[id];
      if (token.starts_with("##")) {
        text += token.substr(2);
        continue;
      }
      if (!text.empty()) text += ' ';
      text += token;
    }
    return text;
  }

 private:
  size_t special_length(std::string_view text) const {
    if (text[0] != '[') return 0;
    for (std::string_view s : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"})
      if (text.starts_with(s) && ids_.contains(std::string(s))) return s.size();
    return 0;
  }

  void encode_word(const std::string& word, const std::vector<size_t>& starts, std::vector<uint32_t>& ids) const {
    size_t before = ids.size(), characters = starts.size();
    auto unknown = [&] {
      ids.resize(before);
      ids.push_back(unknown_);
    };
    if (characters > kMaxWord) return unknown();
    for (size_t begin = 0; begin < characters;) {
      size_t end = characters;
      auto found = ids_.end();
      for (; end > begin; --end) {
        size_t stop = end == characters ? word.size() : starts[end];
        std::string piece = (begin > 0 ? "##" : "") + word.substr(starts[begin], stop - starts[begin]);
        if (found = ids_.find(piece); found != ids_.end()) break;
      }
      if (found == ids_.end()) return unknown();
      ids.push_back(found->second);
      begin = end;
    }
  }

  std::string vocab_;
  bool lower_;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, uint32_t> ids_;
  uint32_t unknown_ = 0;
};

}  // namespace

TokenizerPtr parse_wordpiece(std::string_view vocab_txt, bool lower_case, const std::string& name) {
  return std::make_shared<WordPiece>(vocab_txt, lower_case, name);
}

}  // namespace basis::trainers
