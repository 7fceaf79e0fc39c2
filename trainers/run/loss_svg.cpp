#include "trainers/run/loss_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "trainers/run/files.h"
#include "trainers/run/numbers.h"
#include "trainers/run/svg_axis.h"

namespace basis::trainers {
namespace {

using Points = std::vector<LossPoint>;

constexpr double width = 760, height = 440;
constexpr double left = 66, right = 734, top = 70, bottom = 384;

// Colours that stay apart for colour-blind readers and in grey. Renderers that know no media queries show the first
// set.
constexpr std::string_view style = R"(<style>
text{font-family:"Helvetica Neue",Helvetica,Arial,"DejaVu Sans",sans-serif;fill:#1f2328;font-size:12px}
.title{font-size:17px;font-weight:600}.muted{fill:#59636e}.end{text-anchor:end}.middle{text-anchor:middle}
.paper{fill:#fff}.grid{stroke:#e4e7eb;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}
.raw,.train,.val{fill:none;stroke-linejoin:round;stroke-linecap:round}
.raw{stroke:#0969da;stroke-width:1;stroke-opacity:.28}.train{stroke:#0969da;stroke-width:2}
.val{stroke:#d1480a;stroke-width:2}.dot{fill:#d1480a}.best{fill:#fff;stroke:#d1480a;stroke-width:2}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.muted{fill:#9da7b3}.paper{fill:#0d1117}.grid{stroke:#262c36}.axis{stroke:#6e7681}
.raw,.train{stroke:#58a6ff}.val{stroke:#ff9b5e}.dot{fill:#ff9b5e}.best{fill:#0d1117;stroke:#ff9b5e}}
</style>
)";

Points drawable(const Points& points, const LossCurve& curve) {
  Points out;
  std::copy_if(points.begin(), points.end(), std::back_inserter(out), [&](const LossPoint& p) {
    return std::isfinite(p.loss) && !(curve.log_loss && p.loss <= 0) && !(curve.log_step && p.step <= 0);
  });
  return out;
}

// A running mean. Its window is short where the loss falls steeply: at most a fifth of the points before it.
Points smoothed(const Points& points) {
  std::vector<double> sum(points.size() + 1, 0);
  for (size_t i = 0; i < points.size(); ++i) sum[i + 1] = sum[i] + points[i].loss;
  Points out;
  for (size_t i = 0; i < points.size(); ++i) {
    size_t half = std::min(i / 10, points.size() / 80);
    size_t begin = i - half, end = std::min(i + half + 1, points.size());
    out.push_back({points[i].step, (sum[end] - sum[begin]) / double(end - begin)});
  }
  return out;
}

struct Plot {
  Axis x, y;

  // A path through the points; of those in one pixel column only the lowest and the highest are drawn.
  std::string path(const Points& points, std::string_view css) const {
    if (points.empty()) return "";
    std::string d;
    auto add = [&](double px, double py) { d += fmt::format("{}{:.1f} {:.1f}", d.empty() ? "M" : "L", px, py); };
    for (size_t i = 0; i < points.size();) {
      double column = std::floor(x.pixel(double(points[i].step)) * 2) / 2, low = 1e30, high = -1e30, px = 0;
      size_t first = i;
      for (; i < points.size() && std::floor(x.pixel(double(points[i].step)) * 2) / 2 == column; ++i) {
        px = x.pixel(double(points[i].step));
        low = std::min(low, y.pixel(points[i].loss));
        high = std::max(high, y.pixel(points[i].loss));
      }
      add(px, i - first == 1 || points[i - 1].loss > points[first].loss ? high : low);
      if (high - low > 0.05) add(px, points[i - 1].loss > points[first].loss ? low : high);
    }
    return fmt::format("<path class=\"{}\" clip-path=\"url(#plot)\" d=\"{}\"/>\n", css, d);
  }

  std::string circle(const LossPoint& p, std::string_view css, double radius) const {
    return fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>\n", css, x.pixel(double(p.step)),
                       y.pixel(p.loss), radius);
  }
};

Plot make_plot(const LossCurve& curve, const Points& raw, const Points& train, const Points& validation) {
  double low = std::numeric_limits<double>::infinity(), high = -low, first = low, last = -low;
  for (const Points* points : {&train, &validation}) {
    for (const LossPoint& p : *points) {
      low = std::min(low, p.loss), high = std::max(high, p.loss);
      first = std::min(first, double(p.step)), last = std::max(last, double(p.step));
    }
  }
  // A single bad batch must not flatten the curve, so only downward noise widens the range.
  for (const LossPoint& p : raw) low = std::min(low, p.loss);
  if (!(low <= high)) low = 0, high = 1, first = 0, last = 1;
  if (!curve.log_step) first = std::min(first, 0.0), last = std::max(last, first + 1);
  Plot plot{make_axis(first, last, 7, curve.log_step, false), make_axis(low, high, 6, curve.log_loss, true)};
  plot.x.begin = left, plot.x.end = right;
  plot.y.begin = bottom, plot.y.end = top;
  return plot;
}

std::string axes(const Plot& plot) {
  std::string out;
  for (double tick : plot.y.ticks) {
    double y = plot.y.pixel(tick);
    out += fmt::format("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", left, y, right);
    out += fmt::format("<text class=\"muted end\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", left - 9, y + 4,
                       with_thousands(tick, plot.y.decimals));
  }
  for (double tick : plot.x.ticks) {
    double x = plot.x.pixel(tick);
    out += fmt::format("<path class=\"axis\" d=\"M{:.1f} {}v5\"/>", x, bottom);
    out += fmt::format("<text class=\"muted middle\" x=\"{:.1f}\" y=\"{}\">{}</text>\n", x, bottom + 20, compact(tick));
  }
  out += fmt::format("<path class=\"axis\" d=\"M{} {}H{}\"/>\n", left, bottom, right);
  out += fmt::format("<text class=\"muted middle\" x=\"{}\" y=\"{}\">step</text>\n", (left + right) / 2, height - 14);
  double middle = (top + bottom) / 2;
  out += fmt::format(
      "<text class=\"muted middle\" x=\"17\" y=\"{0}\" transform=\"rotate(-90 17 {0})\">loss (nats per token)</text>\n",
      middle);
  return out;
}

struct LegendRow {
  std::string mark, name, value;  // `mark`: SVG drawn around (0, 0), 22 wide
};

std::string legend(const std::vector<LegendRow>& rows) {
  if (rows.empty()) return "";
  constexpr double line = 19, inner = 226;
  double x = right - inner - 8, y = top + 6;
  std::string out = fmt::format(
      "<rect class=\"paper\" fill-opacity=\".88\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"4\"/>\n", x - 8,
      y - 2, inner + 14, line * double(rows.size()) + 10);
  for (size_t i = 0; i < rows.size(); ++i) {
    double at = y + line * (double(i) + 0.5) + 2;
    out += fmt::format("<g transform=\"translate({} {})\">{}", x, at, rows[i].mark);
    out += fmt::format("<text x=\"30\" y=\"4\">{}</text><text class=\"end\" x=\"{}\" y=\"4\">{}</text></g>\n",
                       rows[i].name, inner, rows[i].value);
  }
  return out;
}

LossPoint lowest(const Points& points) {
  return *std::min_element(points.begin(), points.end(), [](auto& a, auto& b) { return a.loss < b.loss; });
}

}  // namespace

std::string loss_svg(const LossCurve& curve) {
  Points raw = drawable(curve.train, curve), validation = drawable(curve.validation, curve), train = smoothed(raw);
  Plot plot = make_plot(curve, raw, train, validation);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\">\n"
      "<title>{2}</title>\n{3}<rect class=\"paper\" width=\"{0}\" height=\"{1}\"/>\n"
      "<clipPath id=\"plot\"><rect x=\"{4}\" y=\"{5}\" width=\"{6}\" height=\"{7}\"/></clipPath>\n",
      width, height, xml_text(curve.title), style, left, top - 4, right - left + 2, bottom - top + 4);
  out += fmt::format("<text class=\"title\" x=\"{}\" y=\"30\">{}</text>\n", left, xml_text(curve.title));
  out += fmt::format("<text class=\"muted\" x=\"{}\" y=\"50\">{}</text>\n", left, xml_text(curve.subtitle));
  out += axes(plot);

  std::vector<LegendRow> rows;
  if (!raw.empty()) {
    bool noisy = raw.size() > 80;  // else the running mean is the curve itself
    if (noisy) out += plot.path(raw, "raw");
    out += plot.path(train, "train");
    if (raw.size() == 1) out += plot.circle(raw[0], "train", 2);
    rows.push_back({R"(<path class="train" d="M0 0H22"/>)", noisy ? "training (mean)" : "training",
                    fmt::format("{:.4f}", train.back().loss)});
  }
  if (!validation.empty()) {
    LossPoint best = lowest(validation);
    out += plot.path(validation, "val");
    for (const LossPoint& p : validation) out += validation.size() <= 40 ? plot.circle(p, "dot", 2.8) : "";
    out += plot.circle(best, "best", 4.5);
    rows.push_back({R"(<path class="val" d="M0 0H22"/><circle class="dot" cx="11" r="2.8"/>)", "validation",
                    fmt::format("{:.4f}", validation.back().loss)});
    rows.push_back({R"(<circle class="best" cx="11" r="4.5"/>)",
                    fmt::format("best, step {}", with_thousands(double(best.step))), fmt::format("{:.4f}", best.loss)});
  }
  return out + legend(rows) + "</svg>\n";
}

void write_loss_svg(const std::filesystem::path& file, const LossCurve& curve) {
  write_file(file, loss_svg(curve), false);
}

}  // namespace basis::trainers
