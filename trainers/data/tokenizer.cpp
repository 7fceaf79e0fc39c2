#include "trainers/data/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "core/utf8.h"
#include "trainers/data/bpe.h"
#include "trainers/data/bpe_json.h"
#include "trainers/data/files.h"
#include "trainers/data/wordpiece.h"
#include "trainers/run/files.h"

namespace basis::trainers {
namespace {

using core::append_utf8;
using core::code_point;
using core::kInvalid;

using nlohmann::json;

class ByteTokenizer : public Tokenizer {
 public:
  std::string_view type() const override { return "byte"; }
  int64_t vocab_size() const override { return 256; }
  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> ids(text.size());
    std::transform(text.begin(), text.end(), ids.begin(), [](char c) { return static_cast<unsigned char>(c); });
    return ids;
  }
  std::string decode(std::span<const uint32_t> ids) const override {
    check_ids(ids);
    return std::string(ids.begin(), ids.end());
  }
  std::string serialise() const override { return tokenizer_json("byte").dump(); }
};

std::string show(char32_t c) {
  std::string text;
  append_utf8(text, c);
  return fmt::format("'{}' (U+{:04X})", c < 32 ? "control character" : text, uint32_t(c));
}

class CharTokenizer : public Tokenizer {
 public:
  explicit CharTokenizer(std::vector<char32_t> sorted) : characters_(std::move(sorted)) {
    for (size_t i = 0; i < characters_.size(); ++i) ids_[characters_[i]] = uint32_t(i);
  }
  std::string_view type() const override { return "char"; }
  int64_t vocab_size() const override { return int64_t(characters_.size()); }
  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> ids;
    ids.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      auto [c, length] = code_point(text, at);
      auto it = c == kInvalid ? ids_.end() : ids_.find(c);
      if (it == ids_.end()) refuse(text, at, c);
      ids.push_back(it->second);
      at += size_t(length);
    }
    return ids;
  }
  std::string decode(std::span<const uint32_t> ids) const override {
    check_ids(ids);
    std::string text;
    for (uint32_t id : ids) append_utf8(text, characters_[id]);
    return text;
  }
  std::string serialise() const override {
    std::string all;
    for (char32_t c : characters_) append_utf8(all, c);
    json j = tokenizer_json("char");
    j["characters"] = all;
    return j.dump();
  }

 private:
  [[noreturn]] void refuse(std::string_view text, size_t at, char32_t c) const {
    auto line = 1 + std::count(text.begin(), text.begin() + std::ptrdiff_t(at), '\n');
    bool invalid = c == kInvalid;
    throw bad_file(
        "char tokenizer", invalid ? "UTF-8" : "characters of the vocabulary",
        fmt::format("{} at byte {} (line {})",
                    invalid ? fmt::format("byte {:#04x}", static_cast<unsigned char>(text[at])) : show(c), at, line),
        "use the byte tokenizer, or build the vocabulary from this text too");
  }
  std::vector<char32_t> characters_;
  std::unordered_map<char32_t, uint32_t> ids_;
};

TokenizerPtr char_from_json(const json& j, const std::string& name) {
  TokenizerPtr tokenizer = char_tokenizer(j.at("characters").get<std::string>(), name);
  if (tokenizer->serialise() != j.dump()) throw bad_file(name, "sorted characters without repeats", "others");
  return tokenizer;
}

bool is_own(const json& j) { return j.is_object() && j.contains("format") && j["format"] == kTokenizerFormat; }

TokenizerPtr from_own_json(const json& j, const std::string& name) {
  if (j.at("version") != 1) throw bad_file(name, "tokenizer version 1", j.at("version").dump(), "use a newer basis");
  std::string type = j.at("type").get<std::string>();
  if (type == "byte") return byte_tokenizer();
  if (type == "char") return char_from_json(j, name);
  if (type == "bpe") return bpe_tokenizer(bpe_from_json(j, name), name);
  if (type == "wordpiece")
    return parse_wordpiece(j.at("vocab").get<std::string>(), j.at("lower_case").get<bool>(), name);
  throw bad_file(name, "type byte, char, bpe or wordpiece", type);
}

TokenizerPtr load_json_file(const std::filesystem::path& path) {
  std::string text = read_file(path);
  json j = parse_json(text, path.string());
  if (is_own(j)) return with_json_errors(path.string(), [&] { return from_own_json(j, path.string()); });
  if (j.is_object() && j.contains("model")) return parse_huggingface(text, path.string());
  std::filesystem::path merges = path.parent_path() / "merges.txt";
  if (!std::filesystem::exists(merges))
    throw bad_file(path, "tokenizer.json, or vocab.json with merges.txt beside it", "neither");
  return parse_gpt2_bpe(text, read_file(merges), path.string());
}

}  // namespace

uint64_t Tokenizer::hash() const {
  uint64_t h = 0xcbf29ce484222325;
  for (char c : serialise()) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

void Tokenizer::check_ids(std::span<const uint32_t> ids) const {
  for (size_t i = 0; i < ids.size(); ++i)
    if (int64_t(ids[i]) >= vocab_size())
      throw bad_file(fmt::format("{} tokenizer", type()), fmt::format("ids below {}", vocab_size()),
                     fmt::format("{} at position {}", ids[i], i));
}

TokenizerPtr byte_tokenizer() { return std::make_shared<ByteTokenizer>(); }

TokenizerPtr char_tokenizer(std::string_view text, const std::string& name) {
  std::set<char32_t> seen;
  for (size_t at = 0; at < text.size();) {
    auto [c, length] = code_point(text, at);
    if (c == kInvalid)
      throw bad_file(name, "UTF-8 text", fmt::format("byte {:#04x} at {}", static_cast<unsigned char>(text[at]), at),
                     "convert the text, or use the byte tokenizer");
    seen.insert(c);
    at += size_t(length);
  }
  if (seen.empty()) throw bad_file(name, "text to take the characters from", "none");
  return std::make_shared<CharTokenizer>(std::vector<char32_t>(seen.begin(), seen.end()));
}

TokenizerPtr parse_tokenizer(std::string_view text, const std::string& name) {
  json j = parse_json(text, name);
  if (!is_own(j)) throw bad_file(name, fmt::format("\"format\": \"{}\"", kTokenizerFormat), "other JSON");
  return with_json_errors(name, [&] { return from_own_json(j, name); });
}

TokenizerPtr load_tokenizer(const std::filesystem::path& path) {
  if (path == "byte") return byte_tokenizer();
  if (std::filesystem::is_directory(path)) {
    for (const char* name : {"tokenizer.json", "vocab.json", "vocab.txt"})
      if (std::filesystem::exists(path / name)) return load_tokenizer(path / name);
    throw bad_file(path, "tokenizer.json, vocab.json with merges.txt, or vocab.txt in this directory", "none");
  }
  if (path.extension() == ".txt") return parse_wordpiece(read_file(path), true, path.string());
  return load_json_file(path);
}

void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& path) {
  write_file(path, tokenizer.serialise());
}

}  // namespace basis::trainers
