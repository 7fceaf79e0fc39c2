#include "trainers/data/unicode.h"

#include <algorithm>

#include "trainers/data/unicode_tables.h"

namespace basis::trainers {
namespace {

bool within(std::span<const CodeRange> ranges, char32_t c) {
  auto after =
      std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t x, const CodeRange& r) { return x < r.first; });
  return after != ranges.begin() && c <= (after - 1)->last;
}

// The Unicode standard, section 3.12: leading consonant, vowel, optional trailing consonant.
void append_hangul(std::u32string& text, char32_t c) {
  char32_t s = c - 0xac00, trailing = s % 28;
  text += char32_t(0x1100 + s / 588);
  text += char32_t(0x1161 + s % 588 / 28);
  if (trailing) text += char32_t(0x11a7 + trailing);
}

}  // namespace

bool is_mark(char32_t c) { return within(kMarks, c); }
bool is_control(char32_t c) { return within(kControl, c); }
bool is_punctuation(char32_t c) {
  if (c < 128) return c > 32 && c < 127 && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z');
  return within(kPunctuation, c);
}

void append_folded(std::u32string& text, char32_t c) {
  if (c < 128) {
    text += c >= 'A' && c <= 'Z' ? c + 32 : c;
    return;
  }
  if (c >= 0xac00 && c <= 0xd7a3) return append_hangul(text, c);
  if (is_mark(c)) return;
  // Runs may interleave (every second letter is a capital), so those that begin before c are looked through from the
  // nearest on; none is longer than kLongestRun.
  constexpr char32_t kLongestRun = 256;
  auto run =
      std::upper_bound(kFoldRuns.begin(), kFoldRuns.end(), c, [](char32_t x, const FoldRun& r) { return x < r.first; });
  while (run != kFoldRuns.begin() && c - (run - 1)->first <= kLongestRun) {
    --run;
    if (c > run->last || (c - run->first) % run->step) continue;
    text += run->moves ? run->to + (c - run->first) : run->to;
    return;
  }
  for (const FoldSeveral& f : kFoldSeveral)
    if (f.from == c) {
      for (char32_t to : f.to)
        if (to) text += to;
      return;
    }
  for (const FoldIdeographs& f : kFoldIdeographs)
    if (c >= f.first && c - f.first < f.to.size()) {
      text += f.to[c - f.first];
      return;
    }
  text += c;
}

}  // namespace basis::trainers
