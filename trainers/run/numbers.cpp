#include "trainers/run/numbers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace basis::trainers {

std::string with_thousands(double value, int decimals) {
  std::string text = fmt::format("{:.{}f}", value, decimals);
  size_t point = std::min(text.find('.'), text.size());
  size_t first = text[0] == '-' ? 1 : 0;
  for (size_t at = point; at > first + 3;) text.insert(at -= 3, 1, ',');
  return text;
}

std::string compact(double value) {
  double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:g}k", value / 1e3);
  return with_thousands(value, value == std::round(value) ? 0 : 1);
}

std::string format_duration(double seconds) {
  int64_t s = int64_t(std::llround(std::clamp(seconds, 0.0, 1e9)));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string format_count(double value) {
  if (value < 999.5) return fmt::format("{:.0f}", value);
  for (const char* unit : {"k", "M"}) {
    value /= 1000;
    if (value < 999.5) return fmt::format("{:.3g}{}", value, unit);
  }
  return fmt::format("{:.3g}G", value / 1000);
}

}  // namespace basis::trainers
