#include "configs/train_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace basis::configs {
namespace {

// Where a key was written, for complaints that involve several keys; the file's name when it was not.
Position find(const std::vector<YamlNode>& documents, const std::string& path, const std::string& file) {
  for (auto d = documents.rbegin(); d != documents.rend(); ++d) {
    const YamlNode* n = &*d;
    size_t begin = 0;
    bool found = true;
    while (found && begin <= path.size()) {
      size_t dot = std::min(path.find('.', begin), path.size());
      found = false;
      for (const auto& [key, value] : n->entries)
        if (key.text == path.substr(begin, dot - begin)) {
          n = &value;
          found = true;
          break;
        }
      begin = dot + 1;
    }
    if (found) return n->at;
  }
  return {file, 0, 0};
}

// The rules that one key alone cannot show.
void validate(const Config& c, const std::vector<YamlNode>& documents, const std::string& file, Complaints& bad) {
  auto rule = [&](bool ok, const std::string& key, const std::string& message) {
    if (!ok) bad.add(find(documents, key, file), key + ": " + message);
  };
  const ModelConfig& m = c.model;
  rule(m.head_dim > 0 || m.d_model % m.n_head == 0, "model.n_head",
       fmt::format("expected a divisor of d_model {}, got {} (or set model.head_dim)", m.d_model, m.n_head));
  rule(m.n_head % m.kv_heads() == 0, "model.n_kv_head",
       fmt::format("expected a divisor of n_head {}, got {}", m.n_head, m.kv_heads()));
  rule(m.family != "llama" || m.head_width() % 2 == 0, "model.head_dim",
       fmt::format("expected an even head width for RoPE, got {}", m.head_width()));
  if (m.family == "deepseek_v2") {
    rule(m.kv_heads() == m.n_head, "model.n_kv_head",
         fmt::format("expected n_head {} with multi-head latent attention, got {}", m.n_head, m.kv_heads()));
    rule(m.rope_width() % 2 == 0, "model.qk_rope_head_dim",
         fmt::format("expected an even width for RoPE, got {}", m.rope_width()));
  }
  int64_t rows = 0;
  const char* end = m.head_chunk.data() + m.head_chunk.size();
  auto [rest, error] = std::from_chars(m.head_chunk.data(), end, rows);
  rule(m.head_chunk == "auto" || m.head_chunk == "none" || (rest == end && error == std::errc() && rows > 0),
       "model.head_chunk", "expected auto, none or a number of rows, got '" + m.head_chunk + "'");
  rule(c.data.seq_len <= m.max_seq_len, "data.seq_len",
       fmt::format("expected at most model.max_seq_len {}, got {}", m.max_seq_len, c.data.seq_len));
  constexpr int64_t most = int64_t{1} << 30;  // of these the host holds inputs and targets
  rule(c.train.global_batch <= most / c.data.seq_len, "train.global_batch",
       fmt::format("expected at most {} tokens a step, got {} sequences of {}", most, c.train.global_batch,
                   c.data.seq_len));
  rule(c.train.micro_batch == 0 || c.train.global_batch % c.train.micro_batch == 0, "train.micro_batch",
       fmt::format("expected a divisor of global_batch {}, got {}", c.train.global_batch, c.train.micro_batch));
  rule(c.optimizer.betas.size() == 2, "optimizer.betas",
       fmt::format("expected two numbers, got {}", c.optimizer.betas.size()));
  rule(c.schedule.min_lr <= c.optimizer.lr, "schedule.min_lr",
       fmt::format("expected at most optimizer.lr {}, got {}", c.optimizer.lr, c.schedule.min_lr));
  rule((c.data.tokenizer != "bpe" && c.data.tokenizer != "wordpiece") || !c.data.tokenizer_path.empty(),
       "data.tokenizer_path", "expected the directory of vocab.json and merges.txt, tokenizer.json, or vocab.txt");
  for (size_t i = 0; i < c.optimizer.groups.size(); ++i) {
    const ParameterGroup& g = c.optimizer.groups[i];
    std::string path = "optimizer.groups[" + std::to_string(i) + "]";
    rule(!g.match.empty(), "optimizer.groups", path + ".match: expected a glob over parameter names");
    rule(g.lr_scale || g.weight_decay, "optimizer.groups", path + ": expected lr_scale or weight_decay beside match");
  }
  rule(!c.run.name.empty() && c.run.name.find('/') == std::string::npos && c.run.name != "." && c.run.name != "..",
       "run.name", "expected a directory name without '/', got '" + c.run.name + "'");
  auto check_mixer = [&](const AttentionConfig& a, const std::string& path) {
    bool windowed = a.mixer.type == "window" ||
                    (a.mixer.type == "check" && (a.mixer.reference == "window" || a.mixer.candidate == "window"));
    rule(!windowed || a.mixer.window > 0, path + ".mixer.window",
         "expected a width of at least 1 for the window mixer, got 0");
    bool low_rank = a.mixer.type == "low_rank";
    rule(!low_rank || a.mixer.mask != "window" || a.mixer.window > 0, path + ".mixer.window",
         "expected a width of at least 1 for mask: window, got 0");
    bool grouped = a.mixer.type == "long_lora" || (low_rank && a.mixer.mask == "long_lora");
    rule(!grouped || (a.mixer.group >= 2 && a.mixer.group % 2 == 0), path + ".mixer.group",
         fmt::format("expected an even number of positions for long_lora, got {}", a.mixer.group));
  };
  check_mixer(m.attention, "model.attention");
  for (const auto& [layer, attention] : m.layers) {
    std::string path = "model.layers." + std::to_string(layer);
    rule(layer < m.n_layer, path, fmt::format("expected a layer below n_layer {}", m.n_layer));
    check_mixer(attention, path);
  }
  rule(std::find(c.data.train.begin(), c.data.train.end(), "") == c.data.train.end(), "data.train",
       "expected paths, got an empty text");
  rule(std::find(c.data.val.begin(), c.data.val.end(), "") == c.data.val.end(), "data.val",
       "expected a fraction or paths, got an empty text");
  try {
    parse_duration(c.train.max_wall_time);
  } catch (const core::Error& e) {
    rule(false, "train.max_wall_time", e.what());
  }
}

}  // namespace

Config parse_config(std::string_view text, const std::string& name, const std::vector<std::string>& overrides,
                    const SavedModel& saved_model) {
  std::vector<YamlNode> documents{parse_yaml(text, name)};
  for (const std::string& o : overrides) documents.push_back(parse_override(o));
  Config c;
  Complaints bad;
  // model.attention first, whatever the order in the file: the layers start from it.
  for (YamlNode& d : documents)
    for (auto& [key, value] : d.entries)
      if (key.text == "model")
        std::stable_partition(value.entries.begin(), value.entries.end(),
                              [](const auto& e) { return e.key.text != "layers"; });
  for (const YamlNode& d : documents) read_section(d, "", c, bad);
  bad.throw_if_any();
  if (saved_model && !c.train.init_from.empty()) {
    Config start;
    start.model = saved_model(c.train.init_from);
    start.data.tokenizer = "checkpoint";
    c = start;
    for (const YamlNode& d : documents) read_section(d, "", c, bad);
  }
  validate(c, documents, name, bad);
  bad.throw_if_any();
  return c;
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides, const SavedModel& saved_model) {
  return parse_config(read_config_file(path), path, overrides, saved_model);
}

std::string dump_yaml(const Config& config) {
  std::string out;
  dump_section(config, 0, out);
  return out;
}

std::string config_help() {
  std::string out;
  help_section<Config>("", out);
  return out;
}

double parse_duration(const std::string& text) {
  double total = 0;
  const char *p = text.data(), *end = p + text.size();
  while (p != end) {
    double value = 0;
    auto [next, error] = std::from_chars(p, end, value, std::chars_format::fixed);
    double unit = next == end || *next == 's' ? 1 : *next == 'm' ? 60 : *next == 'h' ? 3600 : *next == 'd' ? 86400 : 0;
    if (error != std::errc() || unit == 0 || !(value >= 0 && value < 1e9))
      throw core::Error({.where = "duration",
                         .expected = "such as 90s, 30m or 2h30m",
                         .got = "'" + text + "'",
                         .code = core::ExitCode::usage});
    total += value * unit;
    p = next == end ? end : next + 1;
  }
  return total;
}

}  // namespace basis::configs
