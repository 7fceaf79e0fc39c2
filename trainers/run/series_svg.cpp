#include "trainers/run/series_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "trainers/run/numbers.h"
#include "trainers/run/svg_axis.h"

namespace basis::trainers {
namespace {

constexpr double width = 860, height = 460, left = 70, right = 620, top = 56, bottom = 404;

// Colours that stay apart for colour-blind readers (Okabe and Ito), and four more.
constexpr const char* colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
                                   "#56b4e9", "#7a5195", "#8c6d31", "#777777", "#b5179e"};

std::string label(double x, double y, const std::string& text, const std::string& more) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>\n", x, y, more, xml_text(text));
}

std::string axes(const Axis& x, const Axis& y) {
  std::string out;
  for (double tick : y.ticks) {
    out += fmt::format("<path stroke=\"#e4e7eb\" d=\"M{} {:.1f}H{}\"/>", left, y.pixel(tick), right);
    out += label(left - 8, y.pixel(tick) + 4, with_thousands(tick, y.decimals), " text-anchor=\"end\"");
  }
  for (double tick : x.ticks) out += label(x.pixel(tick), bottom + 18, compact(tick), " text-anchor=\"middle\"");
  return out + fmt::format("<path stroke=\"#8c959f\" d=\"M{} {}H{}\"/>\n", left, bottom, right);
}

}  // namespace

std::string series_svg(const SeriesPlot& plot) {
  double infinity = std::numeric_limits<double>::infinity(), x0 = infinity, x1 = -infinity, y0 = x0, y1 = x1;
  auto drawn = [&](const std::pair<double, double>& p) {
    return std::isfinite(p.first) && std::isfinite(p.second) && !(plot.high > 0 && p.second > plot.high);
  };
  for (const Series& s : plot.series)
    for (const auto& p : s.points)
      if (drawn(p))
        x0 = std::min(x0, p.first), x1 = std::max(x1, p.first), y0 = std::min(y0, p.second),
        y1 = std::max(y1, p.second);
  if (!(x0 <= x1)) x0 = y0 = 0, x1 = y1 = 1;
  Axis x = make_axis(std::min(x0, 0.0), x1, 7, false, false), y = make_axis(y0, y1, 6, false, true);
  x.begin = left, x.end = right, y.begin = bottom, y.end = top;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
      "font-family=\"Helvetica,Arial,sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n<title>{2}</title>\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
      width, height, xml_text(plot.title));
  out += label(left, 30, plot.title, " font-size=\"16\" font-weight=\"600\"") + axes(x, y);
  out += label((left + right) / 2, height - 16, plot.x_label, " text-anchor=\"middle\"");
  out += label(18, (top + bottom) / 2, plot.y_label,
               fmt::format(" text-anchor=\"middle\" transform=\"rotate(-90 18 {})\"", (top + bottom) / 2));
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const Series& s = plot.series[i];
    std::string d,
        stroke = fmt::format("stroke=\"{}\" stroke-width=\"2\" fill=\"none\"{}", colours[i % std::size(colours)],
                             i < std::size(colours) ? "" : " stroke-dasharray=\"5 4\"");
    for (const auto& p : s.points)
      if (drawn(p)) d += fmt::format("{}{:.1f} {:.1f}", d.empty() ? "M" : "L", x.pixel(p.first), y.pixel(p.second));
    double at = top + 14 + 20 * double(i);
    if (!d.empty()) out += fmt::format("<path {} d=\"{}\"/>\n", stroke, d);
    out += fmt::format("<path {} d=\"M{} {}h22\"/>", stroke, right + 16, at);
    out += label(right + 46, at + 4, s.name, "");
  }
  return out + "</svg>\n";
}

}  // namespace basis::trainers
