// Learning byte-pair merges with incremental pair counts.
#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <unordered_map>

#include "trainers/data/bpe.h"
#include "trainers/data/bpe_split.h"
#include "trainers/data/files.h"

namespace basis::trainers {
namespace {

struct Word {
  std::vector<uint32_t> ids;
  int64_t count;
};

uint64_t pair_key(uint32_t a, uint32_t b) { return (uint64_t{a} << 32) | b; }

// The most frequent pair first; ties by the smaller ids.
struct Entry {
  int64_t count;
  uint64_t pair;
  bool operator<(const Entry& o) const { return count != o.count ? count < o.count : pair > o.pair; }
};

// Calls f on what lies between the special tokens.
template <class F>
void between(std::string_view text, const std::vector<std::string>& special, F&& f) {
  while (!text.empty()) {
    size_t at = text.size(), length = 0;
    for (const std::string& s : special)
      if (size_t found = text.find(s); !s.empty() && found < at) at = found, length = s.size();
    f(text.substr(0, at));
    text.remove_prefix(std::min(at + length, text.size()));
  }
}

class Trainer {
 public:
  Trainer(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) count_word(w, +1);
    for (const auto& [pair, count] : counts_) queue_.push({count, pair});
  }

  // The best pair that still occurs at least twice; false when there is none.
  bool best(uint64_t& pair) {
    while (!queue_.empty()) {
      Entry top = queue_.top();
      queue_.pop();
      int64_t count = counts_[top.pair];
      if (count != top.count) {  // an old entry: every change has pushed a newer one
        continue;
      }
      if (count < 2) return false;
      pair = top.pair;
      return true;
    }
    return false;
  }

  void merge(uint64_t pair, uint32_t id) {
    std::vector<uint32_t> places = std::move(places_[pair]);
    places_.erase(pair);
    std::sort(places.begin(), places.end());
    places.erase(std::unique(places.begin(), places.end()), places.end());
    changed_.clear();
    for (uint32_t w : places) {
      count_word(w, -1);
      replace(words_[w].ids, uint32_t(pair >> 32), uint32_t(pair), id);
      count_word(w, +1);
    }
    counts_.erase(pair);
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (uint64_t key : changed_)
      if (auto it = counts_.find(key); it != counts_.end() && it->second > 0) queue_.push({it->second, key});
  }

 private:
  void count_word(size_t w, int sign) {
    const Word& word = words_[w];
    for (size_t i = 0; i + 1 < word.ids.size(); ++i) {
      uint64_t key = pair_key(word.ids[i], word.ids[i + 1]);
      counts_[key] += sign * word.count;
      changed_.push_back(key);
      if (sign > 0) {
        std::vector<uint32_t>& places = places_[key];
        if (places.empty() || places.back() != w) places.push_back(uint32_t(w));
      }
    }
  }
  static void replace(std::vector<uint32_t>& ids, uint32_t a, uint32_t b, uint32_t id) {
    size_t out = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      bool match = ids[i] == a && i + 1 < ids.size() && ids[i + 1] == b;
      ids[out++] = match ? id : ids[i];
      i += match;
    }
    ids.resize(out);
  }
  std::vector<Word> words_;
  std::unordered_map<uint64_t, int64_t> counts_;
  std::unordered_map<uint64_t, std::vector<uint32_t>> places_;  // words that hold the pair, or did
  std::vector<uint64_t> changed_;
  std::priority_queue<Entry> queue_;
};

std::vector<Word> count_words(std::string_view text, const std::vector<std::string>& special,
                              const std::array<uint32_t, 256>& byte_ids) {
  Splitter splitter({std::string(kGpt2Pattern)}, "BPE training");
  std::unordered_map<std::string_view, int64_t> counts;
  between(text, special,
          [&](std::string_view part) { splitter.split(part, [&](std::string_view w) { ++counts[w]; }); });
  std::vector<std::pair<std::string_view, int64_t>> sorted(counts.begin(), counts.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<Word> words;
  for (const auto& [word, count] : sorted) {
    words.push_back({{}, count});
    for (char c : word) words.back().ids.push_back(byte_ids[static_cast<unsigned char>(c)]);
  }
  return words;
}

}  // namespace

BpeModel train_bpe(std::string_view text, int64_t vocab_size, const std::vector<std::string>& special_tokens) {
  int64_t smallest = int64_t(special_tokens.size()) + 256;
  if (vocab_size < smallest || vocab_size > (1 << 24))
    throw core::Error({.where = "BPE training",
                       .expected = fmt::format("vocab_size in [{}, 2^24]", smallest),
                       .got = std::to_string(vocab_size),
                       .code = core::ExitCode::usage});
  BpeModel model;
  std::vector<std::string> tokens;  // by id
  for (const std::string& s : special_tokens) {
    model.added.push_back({s, uint32_t(tokens.size())});
    tokens.push_back(s);
  }
  // Bytes in the order of their printable characters, which are sorted as their UTF-8 is.
  std::map<std::string, size_t> alphabet;
  for (size_t b = 0; b < 256; ++b) alphabet[printable_bytes()[b]] = b;
  std::array<uint32_t, 256> byte_ids{};
  for (const auto& [token, b] : alphabet) byte_ids[b] = uint32_t(tokens.size()), tokens.push_back(token);
  Trainer trainer(count_words(text, special_tokens, byte_ids));
  for (const std::string& t : tokens) model.vocab.emplace(t, uint32_t(model.vocab.size()));
  if (int64_t(model.vocab.size()) != smallest)
    throw core::Error({.where = "BPE training",
                       .expected = "distinct special tokens that are no single bytes",
                       .got = "a repeated one",
                       .code = core::ExitCode::usage});
  for (uint64_t pair = 0; int64_t(tokens.size()) < vocab_size && trainer.best(pair);) {
    std::string a = tokens[pair >> 32], b = tokens[uint32_t(pair)];
    // Two pairs can spell the same token ("a"+"bc", "ab"+"c"): it keeps its first id.
    auto [it, fresh] = model.vocab.emplace(a + b, uint32_t(tokens.size()));
    if (fresh) tokens.push_back(a + b);
    model.merges.emplace_back(a, b);
    trainer.merge(pair, it->second);
  }
  return model;
}

}  // namespace basis::trainers
