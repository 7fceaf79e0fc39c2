// One axis of a plot: the range of the data, its ticks, and the way from data to pixels; and text within a plot.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace basis::trainers {

struct Axis {
  double low = 0, high = 1;   // data, low < high; both positive if `log`
  double begin = 0, end = 1;  // pixels
  bool log = false;
  std::vector<double> ticks;  // data
  int decimals = 0;           // that tell the ticks apart

  double pixel(double value) const;  // values beyond the range are mapped beyond the pixels
};

// An axis for values in [low, high] with about `count` round ticks (1, 2, 2.5 or 5 times a power of ten; on a
// logarithmic axis over a decade or more 1, 2, 5 or powers of ten). `widen` moves the ends out to ticks (linear) or
// leaves a margin.
Axis make_axis(double low, double high, int count, bool log, bool widen);

// Any text as XML may hold it: markup escaped, control characters and bytes that are not UTF-8 written out.
std::string xml_text(std::string_view text);

}  // namespace basis::trainers
