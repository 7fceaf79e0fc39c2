#include "trainers/data/bpe_split.h"

#include <fmt/format.h>

#include <unordered_map>

#include "core/utf8.h"
#include "trainers/data/files.h"
#if defined(BASIS_HAS_PCRE2)
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

namespace basis::trainers {

using core::append_utf8;
using core::code_point;
using core::CodePoint;
using core::kInvalid;

const std::array<std::string, 256>& printable_bytes() {
  static const std::array<std::string, 256> table = [] {
    std::array<std::string, 256> t;
    char32_t next = 256;
    for (char32_t b = 0; b < 256; ++b) {
      bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      append_utf8(t[b], printable ? b : next++);
    }
    return t;
  }();
  return table;
}

bool bytes_of_printable(std::string_view token, std::string& bytes) {
  static const std::unordered_map<char32_t, char> table = [] {
    std::unordered_map<char32_t, char> t;
    for (int b = 0; b < 256; ++b) t[code_point(printable_bytes()[size_t(b)], 0).value] = char(b);
    return t;
  }();
  bytes.clear();
  for (size_t at = 0; at < token.size();) {
    auto [c, length] = code_point(token, at);
    auto it = table.find(c);
    if (it == table.end()) return false;
    bytes += it->second;
    at += size_t(length);
  }
  return true;
}

#if defined(BASIS_HAS_PCRE2)

struct Splitter::Impl {
  template <class T, void (*free)(T*)>
  struct Free {
    void operator()(T* p) const { free(p); }
  };
  using Code = std::unique_ptr<pcre2_code, Free<pcre2_code, pcre2_code_free>>;
  using Match = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data, pcre2_match_data_free>>;
  using Context = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context, pcre2_match_context_free>>;
  using Piece = std::function<void(std::string_view)>;

  std::vector<Code> codes;
  std::string name;

  static std::string message(int code) {
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return reinterpret_cast<const char*>(text);
  }

  void compile(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE at = 0;
    codes.emplace_back(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr));
    if (codes.back() == nullptr)
      throw bad_file(name, "a regular expression of PCRE2", fmt::format("{} at {}: {}", pattern, at, message(error)));
    pcre2_jit_compile(codes.back().get(), PCRE2_JIT_COMPLETE);  // without JIT the interpreter serves
  }

  // `text` is valid UTF-8.
  void run(size_t pattern, std::string_view text, const Piece& piece) const {
    if (text.empty()) return;
    if (pattern == codes.size()) return piece(text);
    Match match(pcre2_match_data_create(1, nullptr));
    Context context(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(context.get(), 1'000'000);  // against patterns that backtrack without end
    pcre2_set_heap_limit(context.get(), 64 * 1024);   // KiB
    size_t done = 0, at = 0;
    while (at < text.size()) {
      int found = pcre2_match(codes[pattern].get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                              PCRE2_NO_UTF_CHECK, match.get(), context.get());
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0) throw bad_file(name, "a pattern that splits the text", message(found));
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
      size_t begin = range[0], end = range[1];
      if (begin < done || end <= begin) {  // an empty match: go on one character later
        at = std::max(at, end);
        if (at < text.size()) at += size_t(code_point(text, at).length);
        continue;
      }
      run(pattern + 1, text.substr(done, begin - done), piece);
      run(pattern + 1, text.substr(begin, end - begin), piece);
      done = at = end;
    }
    run(pattern + 1, text.substr(done), piece);
  }
};

Splitter::Splitter(const std::vector<std::string>& patterns, const std::string& name) : impl_(new Impl) {
  impl_->name = name;
  for (const std::string& pattern : patterns) impl_->compile(pattern);
}

void Splitter::split(std::string_view text, const std::function<void(std::string_view)>& piece) const {
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    CodePoint c = code_point(text, at);
    if (c.value == kInvalid) {
      impl_->run(0, text.substr(begin, at - begin), piece);
      piece(text.substr(at, 1));
      begin = at + 1;
    }
    at += size_t(c.length);
  }
  impl_->run(0, text.substr(begin), piece);
}

#else

struct Splitter::Impl {};

Splitter::Splitter(const std::vector<std::string>&, const std::string& name) {
  throw core::Error({.where = name,
                     .expected = "PCRE2, to split text for byte-level BPE",
                     .got = "a build without it",
                     .remedy = "install libpcre2-dev and build again, or use the byte or char tokenizer",
                     .code = core::ExitCode::usage});
}

void Splitter::split(std::string_view, const std::function<void(std::string_view)>&) const {}

#endif

Splitter::~Splitter() = default;

}  // namespace basis::trainers
