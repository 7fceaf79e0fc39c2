// Strict YAML: what yaml-cpp accepts too kindly is an error here. A document becomes a tree whose nodes know where they
// stand, and every complaint is "file:line:column: message".
//
// Refused: duplicate keys, merge keys, anchors, aliases, tags, a second document, keys that are not plain words, files
// over 1 MiB, bytes that are not UTF-8 text.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace basis::configs {

struct Position {
  std::string file;
  int line = 0, column = 0;  // from 1; 0: no place in a file
  std::string str() const;   // "file:line:column"
};

struct YamlEntry;

struct YamlNode {
  enum class Kind { null, scalar, sequence, map } kind = Kind::null;
  Position at;
  std::string text;     // of a scalar
  bool quoted = false;  // 'x' or "x": always a string
  std::vector<YamlNode> items;
  std::vector<YamlEntry> entries;  // of a map, in file order
};

struct YamlEntry {
  YamlNode key, value;
};

// All complaints about one document, thrown together as one core::Error (usage).
class Complaints {
 public:
  void add(const Position& at, const std::string& message);
  size_t count() const { return messages_.size(); }
  void throw_if_any() const;

 private:
  std::vector<std::string> messages_;
};

// Parses one document; an empty one is an empty map. Throws core::Error (usage) naming every offence.
YamlNode parse_yaml(std::string_view text, const std::string& file);

// "a.b.c=value" as the map {a: {b: {c: value}}}, the value read as YAML.
YamlNode parse_override(const std::string& assignment);

// The whole file; core::Error (usage) when it cannot be read.
std::string read_config_file(const std::string& path);

}  // namespace basis::configs
