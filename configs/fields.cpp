#include "configs/fields.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace basis::configs {
namespace {

std::string shown(const YamlNode& n) {
  switch (n.kind) {
    case YamlNode::Kind::null:
      return "nothing";
    case YamlNode::Kind::scalar:
      return "'" + n.text + "'";
    case YamlNode::Kind::sequence:
      return "a list";
    default:
      return "a map";
  }
}

void complain(const YamlNode& n, const std::string& key, const std::string& expected, Complaints& bad) {
  bad.add(n.at, key + ": expected " + expected + ", got " + shown(n));
}

// A decimal number: 12, -3.5, 1e-4. No leading zeros (YAML 1.1 reads 012 as octal), no hexadecimal, inf or nan.
std::optional<double> number(const YamlNode& n) {
  if (n.kind != YamlNode::Kind::scalar || n.quoted) return {};
  std::string_view s = n.text;
  if (s.starts_with('+')) s.remove_prefix(1);
  std::string_view digits = s.starts_with('-') ? s.substr(1) : s;
  auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (digits.empty() || !(digits[0] == '.' || is_digit(digits[0]))) return {};
  if (digits.size() > 1 && digits[0] == '0' && is_digit(digits[1])) return {};
  double v = 0;
  auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error != std::errc() || end != s.data() + s.size() || !std::isfinite(v)) return {};
  return v;
}

std::string describe(const Range& r) {
  if (std::isinf(r.low) && std::isinf(r.high)) return "";
  if (std::isinf(r.high)) return fmt::format(" of at least {}", r.low);
  return fmt::format(" in [{}, {}{}", r.low, r.high, r.open_high ? ")" : "]");
}

bool inside(double v, const Range& r) { return v >= r.low && (r.open_high ? v < r.high : v <= r.high); }

bool is_choice(std::string_view value, std::string_view choices) {
  while (!choices.empty()) {
    size_t bar = choices.find('|');
    if (choices.substr(0, bar) == value) return true;
    choices = bar == std::string_view::npos ? "" : choices.substr(bar + 1);
  }
  return false;
}

}  // namespace

void read(const YamlNode& n, const std::string& key, const Constraint&, bool& out, Complaints& bad) {
  if (n.kind == YamlNode::Kind::scalar && !n.quoted && (n.text == "true" || n.text == "false"))
    out = n.text == "true";
  else
    complain(n, key, "true or false", bad);
}

void read(const YamlNode& n, const std::string& key, const Constraint& c, std::optional<bool>& out, Complaints& bad) {
  bool value = false;
  size_t before = bad.count();
  read(n, key, c, value, bad);
  if (before == bad.count()) out = value;
}

void read(const YamlNode& n, const std::string& key, const Constraint& c, std::optional<double>& out, Complaints& bad) {
  double value = 0;
  size_t before = bad.count();
  read(n, key, c, value, bad);
  if (before == bad.count()) out = value;
}

void read(const YamlNode& n, const std::string& key, const Constraint& c, double& out, Complaints& bad) {
  auto v = number(n);
  if (v && inside(*v, c.range))
    out = *v;
  else
    complain(n, key, "a number" + describe(c.range), bad);
}

void read(const YamlNode& n, const std::string& key, const Constraint& c, int64_t& out, Complaints& bad) {
  auto v = number(n);
  if (v && *v == std::floor(*v) && std::abs(*v) < 9e15 && inside(*v, c.range))
    out = int64_t(*v);
  else
    complain(n, key, "a whole number" + describe(c.range), bad);
}

void read(const YamlNode& n, const std::string& key, const Constraint& c, std::string& out, Complaints& bad) {
  if (n.kind == YamlNode::Kind::null && c.choices.empty()) {
    out.clear();
  } else if (n.kind != YamlNode::Kind::scalar) {
    complain(n, key, c.choices.empty() ? "text" : "one of " + std::string(c.choices), bad);
  } else if (!c.choices.empty() && !is_choice(n.text, c.choices)) {
    complain(n, key, "one of " + std::string(c.choices), bad);
  } else {
    out = n.text;
  }
}

void read(const YamlNode& n, const std::string& key, const Constraint&, std::vector<std::string>& out,
          Complaints& bad) {
  out.clear();
  if (n.kind == YamlNode::Kind::null) return;
  if (n.kind == YamlNode::Kind::scalar) {
    out.push_back(n.text);
  } else if (n.kind == YamlNode::Kind::map) {
    complain(n, key, "text or a list of texts", bad);
  } else {
    for (const YamlNode& item : n.items) {
      if (item.kind == YamlNode::Kind::scalar)
        out.push_back(item.text);
      else
        complain(item, key, "text", bad);
    }
  }
}

void read(const YamlNode& n, const std::string& key, const Constraint& c, std::vector<double>& out, Complaints& bad) {
  if (n.kind != YamlNode::Kind::sequence) return complain(n, key, "a list of numbers", bad);
  out.clear();
  for (const YamlNode& item : n.items) {
    double v = 0;
    read(item, key, c, v, bad);
    out.push_back(v);
  }
}

std::string format_value(bool v) { return v ? "true" : "false"; }
std::string format_value(int64_t v) { return std::to_string(v); }
std::string format_value(double v) { return fmt::format("{}", v); }
std::string format_value(const std::optional<bool>& v) { return v ? format_value(*v) : ""; }
std::string format_value(const std::optional<double>& v) { return v ? format_value(*v) : ""; }
std::string format_value(const std::string& v) {
  std::string quoted = "\"";
  for (char c : v) {
    if (c == '"' || c == '\\')
      quoted += std::string("\\") + c;
    else if (c == '\n')
      quoted += "\\n";
    else if (c == '\t')
      quoted += "\\t";
    else if (c == '\r')
      quoted += "\\r";
    else
      quoted += c;
  }
  return quoted + "\"";
}
std::string format_value(const std::vector<std::string>& v) {
  std::string out;
  for (const auto& s : v) out += (out.empty() ? "" : ", ") + format_value(s);
  return "[" + out + "]";
}
std::string format_value(const std::vector<double>& v) {
  std::string out;
  for (double x : v) out += (out.empty() ? "" : ", ") + format_value(x);
  return "[" + out + "]";
}

}  // namespace basis::configs
