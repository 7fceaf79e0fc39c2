// The files of byte-level BPE: GPT-2's vocab.json and merges.txt, Hugging Face's tokenizer.json, and the own JSON.
#include <fmt/format.h>

#include <algorithm>

#include "trainers/data/bpe.h"
#include "trainers/data/bpe_json.h"
#include "trainers/data/files.h"
#include "trainers/run/files.h"

namespace basis::trainers {
namespace {

using nlohmann::json;

std::map<std::string, uint32_t> parse_vocab(const json& j, const std::string& name) {
  if (!j.is_object() || j.empty()) throw bad_file(name, "a vocabulary {\"token\": id, ...}", "something else");
  std::map<std::string, uint32_t> vocab;
  for (const auto& [token, id] : j.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
      throw bad_file(name, fmt::format("an id in [0, 2^31) for the token \"{}\"", token), id.dump());
    vocab.emplace(token, id.get<uint32_t>());
  }
  return vocab;
}

std::pair<std::string, std::string> parse_merge_line(std::string_view line, const std::string& name, size_t number) {
  size_t space = line.find(' ');
  if (space == 0 || space == std::string_view::npos || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos)
    throw bad_file(name, "two tokens with a space between in each merge",
                   fmt::format("\"{}\" in merge {}", line, number));
  return {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
}

std::pair<std::string, std::string> parse_merge(const json& merge, const std::string& name, size_t number) {
  if (merge.is_string()) return parse_merge_line(merge.get_ref<const std::string&>(), name, number);
  if (!merge.is_array() || merge.size() != 2)
    throw bad_file(name, "merges as \"a b\" or [\"a\", \"b\"]", fmt::format("merge {}: {}", number, merge.dump()));
  return {merge[0].get<std::string>(), merge[1].get<std::string>()};
}

void parse_merges(const json& merges, const std::string& name, BpeModel& model) {
  if (!merges.is_array()) throw bad_file(name, "a list of merges", "something else");
  for (size_t i = 0; i < merges.size(); ++i) model.merges.push_back(parse_merge(merges[i], name, i));
}

bool flag(const json& j, const char* key) { return j.contains(key) && j[key] == true; }
bool is_set(const json& j, const char* key) {
  return j.contains(key) && !j[key].is_null() && j[key] != "" && j[key] != false && j[key] != 0.0;
}

void refuse_set(const json& j, const char* key, const std::string& name) {
  if (is_set(j, key))
    throw bad_file(name, fmt::format("a byte-level BPE tokenizer without {}", key), j[key].dump(),
                   "this kind of tokenizer is not supported");
}

void parse_added(const json& j, const std::string& name, BpeModel& model) {
  if (!j.contains("added_tokens") || j["added_tokens"].is_null()) return;
  for (const json& t : j["added_tokens"]) {
    refuse_set(t, "single_word", name);
    const json& id = t.at("id");
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
      throw bad_file(name, "ids of added tokens in [0, 2^31)", id.dump());
    model.added.push_back(
        {t.at("content").get<std::string>(), id.get<uint32_t>(), flag(t, "lstrip"), flag(t, "rstrip")});
  }
}

std::string quoted(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (std::string_view("\\^$.[]|()?*+{}-#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// ByteLevel, Split by a pattern, or a sequence of them; others split differently and are refused.
void parse_pre_tokenizer(const json& p, const std::string& name, BpeModel& model, bool& byte_level) {
  if (!p.is_object()) throw bad_file(name, "a pre_tokenizer", p.dump());
  std::string type = p.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const json& each : p.at("pretokenizers")) {
      if (each.is_object() && each.value("type", "") == "Sequence")
        throw bad_file(name, "a flat sequence of pre-tokenizers", "a nested one");
      parse_pre_tokenizer(each, name, model, byte_level);
    }
  } else if (type == "Split") {
    if (p.value("behavior", "") != "Isolated" || flag(p, "invert"))
      throw bad_file(name, "Split with behavior Isolated", p.value("behavior", "none"));
    const json& pattern = p.at("pattern");
    model.patterns.push_back(pattern.contains("Regex") ? pattern["Regex"].get<std::string>()
                                                       : quoted(pattern.at("String").get<std::string>()));
  } else if (type == "ByteLevel") {
    byte_level = true;
    model.add_prefix_space = p.value("add_prefix_space", true);
    if (model.add_prefix_space && !model.patterns.empty())
      throw bad_file(name, "add_prefix_space only without Split", "both");
    if (p.value("use_regex", true)) model.patterns.emplace_back(kGpt2Pattern);
  } else {
    throw bad_file(name, "the pre-tokenizers ByteLevel and Split", type, "this kind of tokenizer is not supported");
  }
}

BpeModel huggingface_model(const json& j, const std::string& name) {
  const json& m = j.at("model");
  std::string type = m.value("type", "BPE");
  if (type != "BPE") throw bad_file(name, "model type BPE", type, "for BERT give vocab.txt");
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
    refuse_set(m, key, name);
  refuse_set(j, "normalizer", name);
  BpeModel model;
  model.patterns.clear();
  bool byte_level = false;
  if (j.contains("pre_tokenizer") && !j["pre_tokenizer"].is_null())
    parse_pre_tokenizer(j["pre_tokenizer"], name, model, byte_level);
  if (!byte_level) throw bad_file(name, "a ByteLevel pre-tokenizer", "none", "this kind of tokenizer is not supported");
  model.ignore_merges = flag(m, "ignore_merges");
  model.vocab = parse_vocab(m.at("vocab"), name);
  parse_merges(m.at("merges"), name, model);
  parse_added(j, name, model);
  return model;
}

}  // namespace

json parse_json(std::string_view text, const std::string& name) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '\\' && quoted) ++i;
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == '{' || c == '[') && ++depth > 64) throw bad_file(name, "at most 64 levels", "deeper JSON");
    if (!quoted && (c == '}' || c == ']')) --depth;
  }
  try {
    return json::parse(text);
  } catch (const json::exception& e) {
    throw bad_file(name, "JSON", e.what());
  }
}

json bpe_to_json(const BpeModel& model) {
  json j = tokenizer_json("bpe"), added = json::array();
  for (const AddedToken& t : model.added)
    added.push_back({{"content", t.content}, {"id", t.id}, {"lstrip", t.lstrip}, {"rstrip", t.rstrip}});
  j["vocab"] = model.vocab;
  j["merges"] = model.merges;
  j["added_tokens"] = added;
  j["patterns"] = model.patterns;
  j["add_prefix_space"] = model.add_prefix_space;
  j["ignore_merges"] = model.ignore_merges;
  return j;
}

BpeModel bpe_from_json(const json& j, const std::string& name) {
  BpeModel model;
  model.vocab = parse_vocab(j.at("vocab"), name);
  parse_merges(j.at("merges"), name, model);
  parse_added(j, name, model);
  model.patterns = j.at("patterns").get<std::vector<std::string>>();
  model.add_prefix_space = j.at("add_prefix_space").get<bool>();
  model.ignore_merges = j.at("ignore_merges").get<bool>();
  return model;
}

TokenizerPtr parse_gpt2_bpe(std::string_view vocab_json, std::string_view merges_txt, const std::string& name) {
  BpeModel model;
  json j = parse_json(vocab_json, name);
  model.vocab = with_json_errors(name, [&] { return parse_vocab(j, name); });
  for (size_t at = 0, number = 0; at < merges_txt.size();) {
    size_t end = std::min(merges_txt.find('\n', at), merges_txt.size());
    std::string_view line = merges_txt.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    bool comment = at == 0 && line.starts_with("#version");
    if (!line.empty() && !comment) model.merges.push_back(parse_merge_line(line, name, number++));
    at = end + 1;
  }
  if (auto end = model.vocab.find("<|endoftext|>"); end != model.vocab.end())
    model.added.push_back({end->first, end->second});
  return bpe_tokenizer(std::move(model), name);
}

TokenizerPtr load_gpt2_bpe(const std::filesystem::path& vocab_json, const std::filesystem::path& merges_txt) {
  return parse_gpt2_bpe(read_file(vocab_json), read_file(merges_txt), vocab_json.string());
}

TokenizerPtr parse_huggingface(std::string_view tokenizer_json, const std::string& name) {
  json j = parse_json(tokenizer_json, name);
  return with_json_errors(name, [&] { return bpe_tokenizer(huggingface_model(j, name), name); });
}

void save_gpt2_bpe(const BpeModel& model, const std::filesystem::path& directory) {
  std::string merges = "#version: 0.2\n";
  for (const auto& [a, b] : model.merges) merges += fmt::format("{} {}\n", a, b);
  write_file(directory / "vocab.json", json(model.vocab).dump());
  write_file(directory / "merges.txt", merges);
}

}  // namespace basis::trainers
