#include "configs/yaml.h"

#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <fstream>
#include <sstream>

#include "core/error.h"

namespace basis::configs {
namespace {

constexpr size_t kMaxBytes = 1 << 20;

[[noreturn]] void fail(const Position& at, const std::string& message) {
  throw core::Error({.where = at.str(), .got = message, .code = core::ExitCode::usage});
}

// Index of the first byte that is not part of valid UTF-8 text, or npos.
size_t first_bad_byte(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    unsigned char c = static_cast<unsigned char>(s[i]);
    size_t n = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
    if (n == 0 || i + n > s.size() || (c < 0x20 && c != '\n' && c != '\t' && c != '\r')) return i;
    for (size_t k = 1; k < n; ++k)
      if ((static_cast<unsigned char>(s[i + k]) & 0xC0) != 0x80) return i;
    i += n;
  }
  return std::string_view::npos;
}

// Builds the tree from the parser's events, which carry the anchors, aliases and tags that the node API hides.
class Builder : public YAML::EventHandler {
 public:
  Builder(std::string file, Complaints& complaints) : file_(std::move(file)), complaints_(complaints) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& m, YAML::anchor_t a) override { put(node(m, YamlNode::Kind::null, "", a)); }
  void OnAlias(const YAML::Mark& m, YAML::anchor_t) override {
    complaints_.add(at(m), "aliases are not supported; write the value out");
    put(node(m, YamlNode::Kind::null, "", 0));
  }
  void OnScalar(const YAML::Mark& m, const std::string& tag, YAML::anchor_t a, const std::string& value) override {
    YamlNode n = node(m, YamlNode::Kind::scalar, tag, a);
    n.text = value;
    n.quoted = tag == "!";
    if (!n.quoted && (value == "~" || value == "null" || value.empty())) n.kind = YamlNode::Kind::null;
    put(std::move(n));
  }
  void OnSequenceStart(const YAML::Mark& m, const std::string& tag, YAML::anchor_t a,
                       YAML::EmitterStyle::value) override {
    open_.push_back({node(m, YamlNode::Kind::sequence, tag, a), {}, false});
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& m, const std::string& tag, YAML::anchor_t a, YAML::EmitterStyle::value) override {
    open_.push_back({node(m, YamlNode::Kind::map, tag, a), {}, false});
  }
  void OnMapEnd() override { close(); }

  YamlNode root;

 private:
  struct Open {
    YamlNode node, key;
    bool has_key;
  };

  Position at(const YAML::Mark& m) const { return {file_, m.line + 1, m.column + 1}; }

  YamlNode node(const YAML::Mark& m, YamlNode::Kind kind, const std::string& tag, YAML::anchor_t anchor) {
    YamlNode n;
    n.kind = kind;
    n.at = at(m);
    if (anchor) complaints_.add(n.at, "anchors are not supported; write the value where it is used");
    if (!tag.empty() && tag != "?" && tag != "!") complaints_.add(n.at, "tags are not supported: " + tag);
    return n;
  }

  void close() {
    YamlNode done = std::move(open_.back().node);
    open_.pop_back();
    put(std::move(done));
  }

  void put(YamlNode n) {
    if (open_.empty()) {
      root = std::move(n);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::sequence) {
      parent.node.items.push_back(std::move(n));
    } else if (!parent.has_key) {
      check_key(parent.node, n);
      parent.key = std::move(n);
      parent.has_key = true;
    } else {
      parent.node.entries.push_back({std::move(parent.key), std::move(n)});
      parent.has_key = false;
    }
  }

  void check_key(const YamlNode& map, const YamlNode& key) {
    if (key.kind != YamlNode::Kind::scalar) return complaints_.add(key.at, "expected a key");
    if (key.text == "<<") return complaints_.add(key.at, "merge keys (<<) are not supported; write the keys out");
    for (const auto& [other, value] : map.entries)
      if (other.text == key.text)
        return complaints_.add(key.at,
                               "duplicate key '" + key.text + "', first at line " + std::to_string(other.at.line));
  }

  std::string file_;
  Complaints& complaints_;
  std::vector<Open> open_;
};

}  // namespace

std::string Position::str() const {
  return line ? file + ":" + std::to_string(line) + ":" + std::to_string(column) : file;
}

void Complaints::add(const Position& at, const std::string& message) { messages_.push_back(at.str() + ": " + message); }

void Complaints::throw_if_any() const {
  if (messages_.empty()) return;
  std::string all;
  for (const std::string& m : messages_) all += (all.empty() ? "" : "\n") + m;
  throw core::Error({.where = all, .code = core::ExitCode::usage});
}

YamlNode parse_yaml(std::string_view text, const std::string& file) {
  if (text.size() > kMaxBytes) fail({file, 0, 0}, "larger than 1 MiB: not a config");
  if (size_t bad = first_bad_byte(text); bad != std::string_view::npos) {
    int line = 1, column = 1;
    for (char c : text.substr(0, bad)) c == '\n' ? (void)(++line, column = 1) : (void)++column;
    fail({file, line, column}, "not UTF-8 text");
  }
  Complaints complaints;
  Builder builder(file, complaints), second(file, complaints);
  builder.root.kind = YamlNode::Kind::map;
  builder.root.at = second.root.at = {file, 1, 1};
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (parser.HandleNextDocument(builder) && parser.HandleNextDocument(second))
      complaints.add(second.root.at, "a second document (---): a config is one document");
  } catch (const YAML::DeepRecursion& e) {
    fail({file, e.mark.line + 1, e.mark.column + 1}, "nested too deep for a config");
  } catch (const YAML::Exception& e) {
    fail({file, e.mark.line + 1, e.mark.column + 1}, e.msg);
  }
  complaints.throw_if_any();
  if (builder.root.kind == YamlNode::Kind::null) builder.root.kind = YamlNode::Kind::map;
  return std::move(builder.root);
}

YamlNode parse_override(const std::string& assignment) {
  size_t equals = assignment.find('=');
  Position at{"'" + assignment + "'", 0, 0};
  if (equals == 0 || equals == std::string::npos) fail(at, "expected key.path=value");
  YamlNode document = parse_yaml("v: " + assignment.substr(equals + 1), at.file);
  if (document.entries.size() != 1) fail(at, "expected one value");
  YamlNode value = std::move(document.entries[0].value);
  std::string path = assignment.substr(0, equals);
  while (!path.empty()) {
    size_t dot = path.rfind('.');
    std::string key = dot == std::string::npos ? path : path.substr(dot + 1);
    path = dot == std::string::npos ? "" : path.substr(0, dot);
    if (key.empty()) fail(at, "expected key.path=value");
    YamlNode map, name;
    map.kind = YamlNode::Kind::map;
    name.kind = YamlNode::Kind::scalar;
    name.text = key;
    map.at = name.at = value.at = at;
    map.entries.push_back({std::move(name), std::move(value)});
    value = std::move(map);
  }
  return value;
}

std::string read_config_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text(kMaxBytes + 1, '\0');
  if (in) in.read(text.data(), std::streamsize(text.size()));
  if (!in.is_open() || in.bad() || (in.fail() && !in.eof()))
    throw core::Error(
        {.where = path, .expected = "a readable YAML file", .got = "none", .code = core::ExitCode::usage});
  text.resize(size_t(in.gcount()));
  return text;
}

}  // namespace basis::configs
