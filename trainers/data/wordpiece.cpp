#include "trainers/data/wordpiece.h"

#include <unordered_map>

#include "trainers/data/bpe_json.h"
#include "trainers/data/utf8.h"

namespace basis::trainers {
namespace {

constexpr size_t kLongestWord = 100;  // characters; longer words become [UNK], as in BERT

// U+00C0 to U+00FF without accents, lower-cased; '.' stands for itself.
constexpr std::string_view kLatin1 = "aaaaaa.ceeeeiiii.nooooo..uuuuy..aaaaaa.ceeeeiiii.nooooo..uuuuy.y";

char32_t lower(char32_t c) {
  if (c >= 'A' && c <= 'Z') return c + 32;
  if (c >= 0xc0 && c <= 0xff) {
    char base = kLatin1[c - 0xc0];
    if (base != '.') return char32_t(base);
    return c <= 0xde && c != 0xd7 ? c + 32 : c;
  }
  if ((c >= 0x391 && c <= 0x3a9) || (c >= 0x410 && c <= 0x42f)) return c + 32;
  if (c >= 0x400 && c <= 0x40f) return c + 80;
  return c;
}

bool is_space(char32_t c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0xa0 || c == 0x3000 || (c >= 0x2000 && c <= 0x200a);
}
bool is_control(char32_t c) { return c < 32 || c == 0x7f || c == 0xfffd || (c >= 0x80 && c < 0xa0); }
// Punctuation and ideographs are words of their own.
bool stands_alone(char32_t c) {
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126) ||
         (c >= 0x2010 && c <= 0x2027) || (c >= 0x3001 && c <= 0x3003) || (c >= 0x4e00 && c <= 0x9fff) ||
         (c >= 0x3400 && c <= 0x4dbf);
}

class WordPiece : public Tokenizer {
 public:
  WordPiece(std::string_view vocab, bool lower_case, const std::string& name)
      : source_(vocab), lower_case_(lower_case) {
    while (!vocab.empty()) {
      size_t end = std::min(vocab.find('\n'), vocab.size());
      std::string token(vocab.substr(0, end));
      if (token.ends_with('\r')) token.pop_back();
      ids_.emplace(token, uint32_t(tokens_.size()));
      tokens_.push_back(std::move(token));
      vocab.remove_prefix(std::min(end + 1, vocab.size()));
    }
    auto unknown = special("[UNK]");
    if (!unknown) throw bad_file(name, "a vocabulary with [UNK]", "none");
    unknown_ = *unknown;
  }

  std::string_view type() const override { return "wordpiece"; }
  int64_t vocab_size() const override { return int64_t(tokens_.size()); }
  std::optional<uint32_t> special(std::string_view token) const override {
    auto it = ids_.find(std::string(token));
    return it == ids_.end() ? std::nullopt : std::optional(it->second);
  }

  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> ids;
    std::string word;
    auto flush = [&] {
      if (!word.empty()) append_word(word, ids);
      word.clear();
    };
    for (size_t at = 0; at < text.size();) {
      auto [c, length] = code_point(text, at);
      at += size_t(length);
      if (c == kInvalid) continue;
      if (is_space(c))
        flush();
      else if (is_control(c))
        continue;
      else if (stands_alone(c)) {
        flush();
        append_utf8(word, c);
        flush();
      } else {
        append_utf8(word, lower_case_ ? lower(c) : c);
      }
    }
    flush();
    return ids;
  }

  std::string decode(std::span<const uint32_t> ids) const override {
    check_ids(ids);
    std::string text;
    for (uint32_t id : ids) {
      const std::string& token = tokens_[id];
      if (token.starts_with("##"))
        text += token.substr(2);
      else
        text += (text.empty() ? "" : " ") + token;
    }
    return text;
  }

  std::string serialise() const override {
    nlohmann::json j = tokenizer_json("wordpiece");
    j["vocab"] = source_;
    j["lower_case"] = lower_case_;
    return j.dump();
  }

 private:
  // Greedy: the longest piece from the left, continuations marked with ##.
  void append_word(const std::string& word, std::vector<uint32_t>& ids) const {
    std::vector<uint32_t> pieces;
    for (size_t begin = 0; begin < word.size() && word.size() <= 4 * kLongestWord;) {
      size_t end = word.size();
      auto found = ids_.end();
      for (; end > begin && found == ids_.end(); --end)
        found = ids_.find((begin ? "##" : "") + word.substr(begin, end - begin));
      if (found == ids_.end()) {
        pieces.clear();
        break;
      }
      pieces.push_back(found->second);
      begin = end + 1;  // the loop stepped once past the match
    }
    if (pieces.empty()) pieces.push_back(unknown_);
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }

  std::string source_;
  bool lower_case_;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, uint32_t> ids_;
  uint32_t unknown_ = 0;
};

}  // namespace

TokenizerPtr parse_wordpiece(std::string_view vocab_txt, bool lower_case, const std::string& name) {
  return std::make_shared<WordPiece>(vocab_txt, lower_case, name);
}

}  // namespace basis::trainers
