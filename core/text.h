// Small text helpers of error messages.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace basis::core {

// Levenshtein distance.
inline size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row.back();
}

// The candidate closest to `name`; empty when there is none.
inline std::string nearest(std::string_view name, const std::vector<std::string>& candidates) {
  auto it = std::min_element(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) {
    return edit_distance(name, a) < edit_distance(name, b);
  });
  return it == candidates.end() ? "" : *it;
}

}  // namespace basis::core
