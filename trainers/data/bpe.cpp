// Encoding and decoding with a byte-level BPE model.
#include "trainers/data/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <queue>
#include <tuple>
#include <unordered_map>

#include "trainers/data/bpe_json.h"
#include "trainers/data/bpe_split.h"
#include "trainers/data/files.h"

namespace basis::trainers {
namespace {

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

struct Merge {
  uint32_t rank, id;
};

uint64_t pair_key(uint32_t a, uint32_t b) { return (uint64_t{a} << 32) | b; }

// One symbol of a word, in a list linked by positions.
struct Symbol {
  uint32_t id;
  int32_t previous, next;  // -1: none
};

struct Candidate {
  uint32_t rank;
  int32_t at;
  uint32_t left, right, id;
  bool operator>(const Candidate& o) const { return std::tie(rank, at) > std::tie(o.rank, o.at); }
};

class Bpe : public Tokenizer {
 public:
  Bpe(BpeModel model, const std::string& name)
      : model_(std::move(model)), name_(name), splitter_(model_.patterns, name) {
    fill_tokens();
    fill_merges();
    fill_added();
  }
  std::string_view type() const override { return "bpe"; }
  int64_t vocab_size() const override { return int64_t(bytes_.size()); }
  std::string serialise() const override { return bpe_to_json(model_).dump(); }

  std::optional<uint32_t> special(std::string_view token) const override {
    for (const AddedToken& t : model_.added)
      if (t.content == token) return t.id;
    return std::nullopt;
  }

  std::string decode(std::span<const uint32_t> ids) const override {
    check_ids(ids);
    std::string text;
    for (uint32_t id : ids) text += bytes_[id];
    return text;
  }

  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> ids;
    ids.reserve(text.size() / 3);
    Cache cache;
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const AddedToken* token = added_at(text, at);
      if (token == nullptr) {
        ++at;
        continue;
      }
      size_t end = at + token->content.size(), stop = at;
      while (token->lstrip && stop > begin && is_space(text[stop - 1])) --stop;
      while (token->rstrip && end < text.size() && is_space(text[end])) ++end;
      encode_segment(text.substr(begin, stop - begin), cache, ids);
      ids.push_back(token->id);
      begin = at = end;
    }
    encode_segment(text.substr(begin), cache, ids);
    return ids;
  }

 private:
  using Cache = std::unordered_map<std::string_view, std::pair<size_t, size_t>>;  // word -> its range in the ids so far

  static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

  void fill_tokens() {
    size_t limit = 2 * (model_.vocab.size() + model_.added.size()) + (1 << 20);
    auto add = [&](const std::string& token, uint32_t id, bool raw) {
      if (id >= limit)
        throw bad_file(name_, fmt::format("token ids below {}", limit), fmt::format("{}: {}", token, id));
      if (id >= bytes_.size()) bytes_.resize(id + 1), used_.resize(id + 1);
      if (used_[id] && !raw) throw bad_file(name_, "distinct token ids", fmt::format("{} twice", id));
      used_[id] = true;
      if (raw || !bytes_of_printable(token, bytes_[id])) bytes_[id] = token;
    };
    for (const auto& [token, id] : model_.vocab) add(token, id, false);
    for (const AddedToken& t : model_.added) {
      if (t.content.empty()) throw bad_file(name_, "added tokens with a text", "an empty one");
      auto it = model_.vocab.find(t.content);
      if (it != model_.vocab.end() && it->second != t.id)
        throw bad_file(name_, fmt::format("id {} for {}", it->second, t.content), std::to_string(t.id));
      if (it == model_.vocab.end() && t.id < used_.size() && used_[t.id])
        throw bad_file(name_, "distinct token ids", fmt::format("{} twice", t.id));
      add(t.content, t.id, true);
    }
    if (bytes_.empty()) throw bad_file(name_, "a vocabulary", "an empty one");
    for (size_t b = 0; b < 256; ++b) {
      auto it = model_.vocab.find(printable_bytes()[b]);
      byte_ids_[b] = it == model_.vocab.end() ? kNone : it->second;
    }
  }

  void fill_merges() {
    auto id_of = [&](const std::string& token, size_t rank) {
      auto it = model_.vocab.find(token);
      if (it == model_.vocab.end())
        throw bad_file(name_, "merges of tokens in the vocabulary", fmt::format("\"{}\" in merge {}", token, rank));
      return it->second;
    };
    merges_.reserve(model_.merges.size());
    for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
      const auto& [a, b] = model_.merges[rank];
      uint32_t left = id_of(a, rank), right = id_of(b, rank), id = id_of(a + b, rank);
      merges_.emplace(pair_key(left, right), Merge{uint32_t(rank), id});
    }
  }

  void fill_added() {
    for (const AddedToken& t : model_.added) starts_[static_cast<unsigned char>(t.content[0])].push_back(&t);
    for (auto& bucket : starts_)
      std::stable_sort(bucket.begin(), bucket.end(),
                       [](const AddedToken* a, const AddedToken* b) { return a->content.size() > b->content.size(); });
  }

  // The longest added token that starts at text[at], or null.
  const AddedToken* added_at(std::string_view text, size_t at) const {
    for (const AddedToken* t : starts_[static_cast<unsigned char>(text[at])])
      if (text.substr(at, t->content.size()) == t->content) return t;
    return nullptr;
  }

  void encode_segment(std::string_view segment, Cache& cache, std::vector<uint32_t>& ids) const {
    if (segment.empty()) return;
    if (model_.add_prefix_space && !is_space(segment[0])) {
      Cache own;  // the prefixed text lives in this call only
      std::string prefixed = " " + std::string(segment);
      return splitter_.split(prefixed, [&](std::string_view word) { encode_word(word, own, ids); });
    }
    splitter_.split(segment, [&](std::string_view word) { encode_word(word, cache, ids); });
  }

  void encode_word(std::string_view word, Cache& cache, std::vector<uint32_t>& ids) const {
    auto it = cache.find(word);
    if (it != cache.end()) {
      auto [begin, end] = it->second;
      ids.reserve(ids.size() + end - begin);
      for (size_t i = begin; i < end; ++i) ids.push_back(ids[i]);
      return;
    }
    size_t begin = ids.size();
    if (!whole_word(word, ids)) merge_word(word, ids);
    if (cache.size() < (1 << 20)) cache.emplace(word, std::pair(begin, ids.size()));
  }

  bool whole_word(std::string_view word, std::vector<uint32_t>& ids) const {
    if (!model_.ignore_merges) return false;
    std::string printable;
    for (char c : word) printable += printable_bytes()[static_cast<unsigned char>(c)];
    auto it = model_.vocab.find(printable);
    if (it == model_.vocab.end()) return false;
    ids.push_back(it->second);
    return true;
  }

  // Merges the pair of the lowest rank, the leftmost first, until none is left: O(n log n).
  void merge_word(std::string_view word, std::vector<uint32_t>& ids) const {
    std::vector<Symbol> symbols(word.size());
    for (size_t i = 0; i < word.size(); ++i) {
      uint32_t id = byte_ids_[static_cast<unsigned char>(word[i])];
      if (id == kNone)
        throw bad_file(name_, "a token for each byte of the text",
                       fmt::format("none for byte {:#04x}", static_cast<unsigned char>(word[i])));
      symbols[i] = {id, int32_t(i) - 1, i + 1 < word.size() ? int32_t(i) + 1 : -1};
    }
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    auto offer = [&](int32_t at) {
      if (at < 0 || symbols[size_t(at)].next < 0) return;
      uint32_t left = symbols[size_t(at)].id, right = symbols[size_t(symbols[size_t(at)].next)].id;
      auto it = merges_.find(pair_key(left, right));
      if (it != merges_.end()) queue.push({it->second.rank, at, left, right, it->second.id});
    };
    for (size_t i = 0; i + 1 < symbols.size(); ++i) offer(int32_t(i));
    while (!queue.empty()) {
      Candidate c = queue.top();
      queue.pop();
      Symbol& s = symbols[size_t(c.at)];
      if (s.id != c.left || s.next < 0 || symbols[size_t(s.next)].id != c.right) continue;  // merged away meanwhile
      Symbol& gone = symbols[size_t(s.next)];
      s.id = c.id, s.next = gone.next;
      gone.id = kNone;
      if (s.next >= 0) symbols[size_t(s.next)].previous = c.at;
      offer(s.previous);
      offer(c.at);
    }
    for (int32_t i = 0; i >= 0; i = symbols[size_t(i)].next) ids.push_back(symbols[size_t(i)].id);
  }

  BpeModel model_;
  std::string name_;
  Splitter splitter_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> used_;
  std::array<uint32_t, 256> byte_ids_{};
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<std::vector<const AddedToken*>, 256> starts_;
};

}  // namespace

TokenizerPtr bpe_tokenizer(BpeModel model, const std::string& name) {
  return std::make_shared<Bpe>(std::move(model), name);
}

}  // namespace basis::trainers
