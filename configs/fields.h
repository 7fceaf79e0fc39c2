// One list of fields per config struct drives everything done with it: parsing, unknown-key errors, overrides, help,
// dump.
//
//   struct ScheduleConfig {
//     std::string type = "cosine";
//     int64_t warmup_steps = 0;
//     static auto fields() {
//       return std::tuple{field("type", &ScheduleConfig::type, "how the rate falls", "cosine|linear|wsd|constant"),
//                         field("warmup_steps", &ScheduleConfig::warmup_steps, "steps of linear warm-up",
//                         at_least(0))};
//     }
//   };
//
// A member may be bool, int64_t, double, std::string, an optional bool or double, a vector of strings or doubles,
// another such struct, a vector of structs, or a map from layer index to a struct.
#pragma once

#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "configs/yaml.h"
#include "core/text.h"

namespace basis::configs {

struct Range {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool open_high = false;  // high itself is excluded
};
inline Range at_least(double low) { return {low}; }
inline Range probability() { return {0, 1, true}; }

template <class S, class T>
struct Field {
  std::string_view name;
  T S::*member;
  std::string_view help;
  std::string_view choices;  // "a|b|c", or empty
  Range range;
};
template <class S, class T>
constexpr Field<S, T> field(std::string_view name, T S::*member, std::string_view help, std::string_view choices = "") {
  return {name, member, help, choices, {}};
}
template <class S, class T>
constexpr Field<S, T> field(std::string_view name, T S::*member, std::string_view help, Range range) {
  return {name, member, help, "", range};
}

template <class S>
concept Section = requires {
  S::fields();
};

template <class T>
concept SectionList = requires {
  requires Section<typename T::value_type>;
  requires !requires { typename T::mapped_type; };
};

struct Constraint {
  std::string_view choices;
  Range range;
};

// Each reads one value; complaints name place, key, expected and got.
void read(const YamlNode& n, const std::string& key, const Constraint& c, bool& out, Complaints& bad);
void read(const YamlNode& n, const std::string& key, const Constraint& c, int64_t& out, Complaints& bad);
void read(const YamlNode& n, const std::string& key, const Constraint& c, double& out, Complaints& bad);
void read(const YamlNode& n, const std::string& key, const Constraint& c, std::string& out, Complaints& bad);
void read(const YamlNode& n, const std::string& key, const Constraint& c, std::optional<bool>& out, Complaints& bad);
void read(const YamlNode& n, const std::string& key, const Constraint& c, std::optional<double>& out, Complaints& bad);
void read(const YamlNode& n, const std::string& key, const Constraint& c, std::vector<std::string>& out,
          Complaints& bad);
void read(const YamlNode& n, const std::string& key, const Constraint& c, std::vector<double>& out, Complaints& bad);

// YAML text of a value; empty for an optional that is not set. Doubles: the shortest text that reads back equal.
std::string format_value(bool v);
std::string format_value(int64_t v);
std::string format_value(double v);
std::string format_value(const std::string& v);
std::string format_value(const std::optional<bool>& v);
std::string format_value(const std::optional<double>& v);
std::string format_value(const std::vector<std::string>& v);
std::string format_value(const std::vector<double>& v);

template <Section S>
std::vector<std::string> keys_of() {
  std::vector<std::string> names;
  std::apply([&](const auto&... f) { (names.emplace_back(f.name), ...); }, S::fields());
  return names;
}

template <Section S>
void read_section(const YamlNode& n, const std::string& path, S& out, Complaints& bad);

template <Section S, Section Owner>
void read_layers(const YamlNode& n, const std::string& path, std::map<int64_t, S>& out, const Owner& owner,
                 Complaints& bad) {
  if (n.kind != YamlNode::Kind::map) return bad.add(n.at, path + ": expected a map from layer index to settings");
  for (const auto& [key, value] : n.entries) {
    int64_t layer = -1;
    read(key, path, {{}, at_least(0)}, layer, bad);
    if (layer < 0) continue;
    S& entry = out.try_emplace(layer, owner.layer_defaults()).first->second;
    read_section(value, path + "." + key.text, entry, bad);
  }
}

// A list of maps takes the place of what `out` holds.
template <Section S>
void read_list(const YamlNode& n, const std::string& path, std::vector<S>& out, Complaints& bad) {
  out.clear();
  if (n.kind == YamlNode::Kind::null) return;
  if (n.kind != YamlNode::Kind::sequence) return bad.add(n.at, path + ": expected a list of maps");
  for (const YamlNode& item : n.items) {
    std::string place = path + "[" + std::to_string(out.size()) + "]";
    if (item.kind == YamlNode::Kind::null) bad.add(item.at, place + ": expected a map of keys, got nothing");
    read_section(item, place, out.emplace_back(), bad);
  }
}

// Reads the keys given in `n` over what `out` holds.
template <Section S>
void read_section(const YamlNode& n, const std::string& path, S& out, Complaints& bad) {
  if (n.kind == YamlNode::Kind::null) return;
  if (n.kind != YamlNode::Kind::map)
    return bad.add(n.at, (path.empty() ? "config" : path) + ": expected a map of keys, got " +
                             (n.kind == YamlNode::Kind::sequence ? "a list" : "'" + n.text + "'"));
  for (const YamlEntry& entry : n.entries) {
    // No structured binding: clang does not capture one under OpenMP.
    const YamlNode &key = entry.key, &value = entry.value;
    std::string full = path.empty() ? key.text : path + "." + key.text;
    bool known = false;
    auto try_field = [&]<class T>(const Field<S, T>& f) {
      if (f.name != key.text) return;
      known = true;
      T& member = out.*f.member;
      if constexpr (Section<T>)
        read_section(value, full, member, bad);
      else if constexpr (SectionList<T>)
        read_list(value, full, member, bad);
      else if constexpr (requires { typename T::mapped_type; })
        read_layers(value, full, member, out, bad);
      else
        read(value, full, {f.choices, f.range}, member, bad);
    };
    std::apply([&](const auto&... f) { (try_field(f), ...); }, S::fields());
    if (!known) bad.add(key.at, "unknown key '" + full + "' (nearest: " + core::nearest(key.text, keys_of<S>()) + ")");
  }
}

// YAML that reads back as the same struct.
template <Section S>
void dump_section(const S& s, int indent, std::string& out) {
  std::string pad(size_t(indent), ' ');
  auto write = [&]<class T>(const Field<S, T>& f) {
    const T& value = s.*f.member;
    if constexpr (Section<T>) {
      out += pad + std::string(f.name) + ":\n";
      dump_section(value, indent + 2, out);
    } else if constexpr (SectionList<T>) {
      if (value.empty()) return;
      out += pad + std::string(f.name) + ":\n";
      for (const auto& entry : value) {
        size_t first_key = out.size() + size_t(indent) + 4;
        dump_section(entry, indent + 4, out);
        out[first_key - 2] = '-';
      }
    } else if constexpr (requires { typename T::mapped_type; }) {
      if (value.empty()) return;
      out += pad + std::string(f.name) + ":\n";
      for (const auto& [layer, entry] : value) {
        out += pad + "  " + std::to_string(layer) + ":\n";
        dump_section(entry, indent + 4, out);
      }
    } else {
      std::string text = format_value(value);
      if (!text.empty()) out += pad + std::string(f.name) + ": " + text + "\n";
    }
  };
  std::apply([&](const auto&... f) { (write(f), ...); }, S::fields());
}

template <class T>
constexpr std::string_view type_name() {
  if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, std::optional<bool>>)
    return "bool";
  else if constexpr (std::is_same_v<T, int64_t>)
    return "int";
  else if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::optional<double>>)
    return "float";
  else if constexpr (std::is_same_v<T, std::string>)
    return "text";
  else
    return "list";
}

// One line per key: name, type or choices, default, meaning.
template <Section S>
void help_section(const std::string& path, std::string& out) {
  S defaults;
  auto line = [&]<class T>(const Field<S, T>& f) {
    std::string full = path.empty() ? std::string(f.name) : path + "." + std::string(f.name);
    if constexpr (Section<T>) {
      help_section<T>(full, out);
    } else if constexpr (SectionList<T>) {
      help_section<typename T::value_type>(full + "[]", out);
    } else if constexpr (requires { typename T::mapped_type; }) {
      out += "  " + full + ".N...  " + std::string(f.help) + "\n";
    } else {
      std::string value = format_value(defaults.*f.member);
      std::string left = "  " + full + "  " + std::string(f.choices.empty() ? type_name<T>() : f.choices);
      if (left.size() < 52) left.resize(52, ' ');
      out += left + " [" + (value.empty() ? "auto" : value) + "]  " + std::string(f.help) + "\n";
    }
  };
  std::apply([&](const auto&... f) { (line(f), ...); }, S::fields());
}

}  // namespace basis::configs
