// Several named curves in one self-contained SVG.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace basis::trainers {

struct Series {
  std::string name;                               // in the legend
  std::vector<std::pair<double, double>> points;  // x, y; in the order of x; non-finite ones are left out
};

struct SeriesPlot {
  std::string title, x_label, y_label;
  std::vector<Series> series;  // colours repeat after ten, dashed
  double high = 0;             // if positive: the largest y that is shown
};

std::string series_svg(const SeriesPlot& plot);

}  // namespace basis::trainers
