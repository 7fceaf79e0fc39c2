// The tables behind unicode.h; ranges are sorted and closed.
#pragma once

#include <span>
#include <string_view>

namespace basis::trainers {

struct CodeRange {
  char32_t first, last;
};
// first, first + step, ..., last become `to`, or to + (c - first) when they move along.
struct FoldRun {
  char32_t first, last, step, to;
  bool moves;
};
struct FoldSeveral {
  char32_t from;
  char32_t to[3];  // ends at 0
};
// Compatibility ideographs: to[i] for first + i.
struct FoldIdeographs {
  char32_t first;
  std::u32string_view to;
};

extern const std::span<const CodeRange> kMarks, kPunctuation, kControl;
extern const std::span<const FoldRun> kFoldRuns;
extern const std::span<const FoldSeveral> kFoldSeveral;
extern const std::span<const FoldIdeographs> kFoldIdeographs;

}  // namespace basis::trainers
