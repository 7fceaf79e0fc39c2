#include "trainers/run/svg_axis.h"

#include <algorithm>
#include <cmath>

#include "core/utf8.h"

namespace basis::trainers {
namespace {

double round_step(double rough) {
  double power = std::pow(10, std::floor(std::log10(rough)));
  for (double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

void linear_ticks(Axis& axis, int count, bool widen) {
  double step = round_step((axis.high - axis.low) / count);
  constexpr double slack = 1e-6;  // of a step, against rounding
  if (widen && !axis.log) {
    axis.low = std::floor(axis.low / step + slack) * step;
    axis.high = std::ceil(axis.high / step - slack) * step;
  }
  auto first = int64_t(std::ceil(axis.low / step - slack)), last = int64_t(std::floor(axis.high / step + slack));
  for (int64_t i = first; i <= last; ++i) axis.ticks.push_back(double(i) * step);
  while (axis.decimals < 9 &&
         std::abs(step * std::pow(10, axis.decimals) - std::round(step * std::pow(10, axis.decimals))) > 1e-6) {
    ++axis.decimals;
  }
}

void decade_ticks(Axis& axis, double decades) {
  for (int power = int(std::floor(std::log10(axis.low))); std::pow(10, power) <= axis.high; ++power) {
    for (double factor : {1.0, 2.0, 5.0}) {
      if (decades > 3 && factor != 1) continue;
      double tick = factor * std::pow(10, power);
      if (tick >= axis.low * (1 - 1e-9) && tick <= axis.high * (1 + 1e-9)) axis.ticks.push_back(tick);
    }
  }
  if (!axis.ticks.empty()) axis.decimals = std::max(0, int(std::ceil(-std::log10(axis.ticks.front()) - 1e-9)));
}

}  // namespace

double Axis::pixel(double value) const {
  double share = log ? std::log(std::max(value, 1e-300) / low) / std::log(high / low) : (value - low) / (high - low);
  return begin + share * (end - begin);
}

Axis make_axis(double low, double high, int count, bool log, bool widen) {
  Axis axis;
  axis.log = log && low > 0;
  if (!(high > low)) {  // one value: some room around it
    double room = std::max(std::abs(low) * 0.05, 1e-3);
    high = low + room;
    low = axis.log ? low / 1.05 : low - room;
  }
  if (axis.log && widen) {
    double margin = std::pow(high / low, 0.04);
    low /= margin;
    high *= margin;
  }
  axis.low = low;
  axis.high = high;
  double decades = axis.log ? std::log10(high / low) : 0;
  if (decades >= 1.2) {
    decade_ticks(axis, decades);
  } else {
    linear_ticks(axis, axis.log ? 2 * count : count, widen);
  }
  return axis;
}

std::string xml_text(std::string_view text) {
  std::string out;
  for (char c : core::printable(text)) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c == '\n' || c == '\t' ? ' ' : c;
  }
  return out;
}

}  // namespace basis::trainers
