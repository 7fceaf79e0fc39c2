// UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace basis::core {

inline constexpr char32_t kInvalid = 0xffffffff;

struct CodePoint {
  char32_t value;  // kInvalid: the byte at this place starts no valid sequence
  int length;      // bytes; 1 when invalid
};

// The code point that starts at text[at]; at < text.size().
inline CodePoint code_point(std::string_view text, size_t at) {
  auto byte = [&](size_t i) { return uint32_t(static_cast<unsigned char>(text[i])); };
  uint32_t b = byte(at);
  if (b < 0x80) return {char32_t(b), 1};
  int length = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : 2;
  constexpr uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (b < 0xc2 || b > 0xf4 || at + size_t(length) > text.size()) return {kInvalid, 1};
  uint32_t value = b & (0xffu >> (length + 1));
  for (int i = 1; i < length; ++i) {
    uint32_t next = byte(at + size_t(i));
    if ((next & 0xc0) != 0x80) return {kInvalid, 1};
    value = (value << 6) | (next & 0x3f);
  }
  if (value < smallest[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return {kInvalid, 1};
  return {char32_t(value), length};
}

inline void append_utf8(std::string& text, char32_t value) {
  uint32_t c = value;
  if (c < 0x80) {
    text += char(c);
  } else if (c < 0x800) {
    text += char(0xc0 | (c >> 6));
    text += char(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    text += char(0xe0 | (c >> 12));
    text += char(0x80 | ((c >> 6) & 0x3f));
    text += char(0x80 | (c & 0x3f));
  } else {
    text += char(0xf0 | (c >> 18));
    text += char(0x80 | ((c >> 12) & 0x3f));
    text += char(0x80 | ((c >> 6) & 0x3f));
    text += char(0x80 | (c & 0x3f));
  }
}

// How many bytes of `text` come before a sequence that its end cuts short.
inline size_t complete_utf8(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    uint32_t b = static_cast<unsigned char>(text[text.size() - back]);
    if (b >= 0xc2 && b <= 0xf4) return (b >= 0xf0 ? 4u : b >= 0xe0 ? 3u : 2u) > back ? text.size() - back : text.size();
    if ((b & 0xc0) != 0x80) break;
  }
  return text.size();
}

// Text from elsewhere (a model, a file) as a terminal may show it: control characters other than newline and tab, which
// could drive the terminal, and bytes that are not UTF-8, come as \x1b.
inline std::string printable(std::string_view text) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (size_t at = 0; at < text.size();) {
    auto [value, length] = code_point(text, at);
    bool plain =
        value == U'\n' || value == U'\t' || (value >= 0x20 && value < 0x7f) || (value >= 0xa0 && value != kInvalid);
    for (char c : text.substr(at, size_t(length))) {
      if (plain)
        out += c;
      else
        out += {'\\', 'x', digits[static_cast<unsigned char>(c) >> 4], digits[c & 15]};
    }
    at += size_t(length);
  }
  return out;
}

}  // namespace basis::core
