// Splitting text into words by regular expressions (PCRE2), and the printable form of bytes in GPT-2's files.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace basis::trainers {

// Applies the patterns one after the other: matches and what lies between them become pieces. Bytes that are not UTF-8
// are pieces of their own; the pieces concatenated are the text. Thread-safe.
class Splitter {
 public:
  Splitter(const std::vector<std::string>& patterns, const std::string& name);
  ~Splitter();
  void split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// GPT-2's bytes_to_unicode: printable bytes stand for themselves, the others for U+0100 and up.
const std::array<std::string, 256>& printable_bytes();
// The inverse; false when `token` has a character that stands for no byte.
bool bytes_of_printable(std::string_view token, std::string& bytes);

}  // namespace basis::trainers
