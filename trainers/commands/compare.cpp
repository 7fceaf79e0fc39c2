// basis compare: runs side by side, those that differ in their seed alone (name-s1, name-s2, ...) taken together.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>

#include "core/error.h"
#include "trainers/commands/commands.h"
#include "trainers/run/files.h"
#include "trainers/run/metrics.h"
#include "trainers/run/series_svg.h"

namespace basis::trainers {
namespace {

struct Point {
  int64_t step;
  double loss, accuracy, elapsed;
};

struct Run {
  std::vector<Point> validation;
  double tokens_per_s = 0;  // the median of what was logged
};

// Runs of one name, whatever their seed.
struct Group {
  std::string name;
  std::vector<Run> runs;
};

double number(const Record& r, const char* key) {
  return r.contains(key) && r[key].is_number() ? r[key].get<double>() : std::nan("");
}

Run read_run(const std::filesystem::path& directory) {
  Run run;
  std::vector<double> rates;
  for (const Record& r : read_metrics(directory / "metrics.jsonl")) {
    if (r.contains("val_loss"))
      run.validation.push_back(
          {r["step"].get<int64_t>(), number(r, "val_loss"), number(r, "val_accuracy"), number(r, "elapsed")});
    if (r.contains("tokens_per_s")) rates.push_back(number(r, "tokens_per_s"));
  }
  if (run.validation.empty())
    throw core::Error({.where = directory.string(),
                       .expected = "a run directory with an evaluation in metrics.jsonl",
                       .got = "none",
                       .code = core::ExitCode::bad_file});
  if (!rates.empty()) {
    std::nth_element(rates.begin(), rates.begin() + std::ptrdiff_t(rates.size() / 2), rates.end());
    run.tokens_per_s = rates[rates.size() / 2];
  }
  return run;
}

// "dense-s3" -> "dense"
std::string without_seed(const std::string& name) {
  size_t at = name.rfind("-s");
  bool seed = at != std::string::npos && at + 2 < name.size() &&
              name.find_first_not_of("0123456789", at + 2) == std::string::npos;
  return seed ? name.substr(0, at) : name;
}

std::vector<Group> read_groups(const std::vector<std::string>& directories) {
  std::vector<Group> groups;
  for (const std::string& d : directories) {
    auto path = std::filesystem::path(d).lexically_normal();
    std::string name = without_seed((path.has_filename() ? path : path.parent_path()).filename().string());
    auto found = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.name == name; });
    if (found == groups.end()) found = groups.insert(groups.end(), {name, {}});
    found->runs.push_back(read_run(path));
  }
  return groups;
}

struct Spread {
  double mean = 0, low = INFINITY, high = -INFINITY;
};
template <class F>
Spread over_runs(const Group& g, F value) {
  Spread s;
  for (const Run& r : g.runs) {
    double v = value(r);
    s.mean += v / double(g.runs.size()), s.low = std::min(s.low, v), s.high = std::max(s.high, v);
  }
  return s;
}

Record row_of(const Group& g, double baseline) {
  auto last = [](const Run& r) { return r.validation.back(); };
  Spread loss = over_runs(g, [&](const Run& r) { return last(r).loss; });
  Spread best = over_runs(g, [&](const Run& r) {
    return std::min_element(r.validation.begin(), r.validation.end(), [](auto& a, auto& b) { return a.loss < b.loss; })
        ->loss;
  });
  Record row{{"run", g.name},      {"runs", g.runs.size()}, {"step", last(g.runs[0]).step}, {"val_loss", loss.mean},
             {"lowest", loss.low}, {"highest", loss.high},  {"best_val_loss", best.mean}};
  row["val_accuracy"] = over_runs(g, [&](const Run& r) { return last(r).accuracy; }).mean;
  row["seconds"] = over_runs(g, [&](const Run& r) { return last(r).elapsed; }).mean;
  row["tokens_per_s"] = over_runs(g, [](const Run& r) { return r.tokens_per_s; }).mean;
  if (std::isfinite(baseline)) row["against_baseline"] = loss.mean - baseline;
  return row;
}

void print_table(const std::vector<Record>& rows, const std::string& baseline) {
  fmt::print("| run | runs | steps | validation loss | lowest to highest | best |{} accuracy | s | tokens/s |\n",
             baseline.empty() ? "" : " against " + baseline + " |");
  fmt::print("|---|---|---|---|---|---|{}---|---|---|\n", baseline.empty() ? "" : "---|");
  for (const Record& r : rows) {
    auto value = [&](const char* key) { return number(r, key); };
    std::string difference = baseline.empty() ? "" : fmt::format(" {:+.4f} |", value("against_baseline"));
    fmt::print("| {} | {} | {} | {:.4f} | {:.4f} to {:.4f} | {:.4f} |{} {:.4f} | {:.0f} | {:.0f} |\n",
               r["run"].get<std::string>(), r["runs"].get<int64_t>(), r["step"].get<int64_t>(), value("val_loss"),
               value("lowest"), value("highest"), value("best_val_loss"), difference, value("val_accuracy"),
               value("seconds"), value("tokens_per_s"));
  }
}

// The mean over the runs of a group at each step that all of them evaluated.
Series curve(const Group& g, bool by_time) {
  std::map<int64_t, std::vector<Point>> at;
  for (const Run& r : g.runs)
    for (const Point& p : r.validation) at[p.step].push_back(p);
  Series s{g.name, {}};
  for (const auto& [step, points] : at) {
    if (points.size() != g.runs.size()) continue;
    double loss = 0, elapsed = 0;
    for (const Point& p : points) loss += p.loss / double(points.size()), elapsed += p.elapsed / double(points.size());
    s.points.emplace_back(by_time ? elapsed : double(step), loss);
  }
  return s;
}

}  // namespace

void add_compare_command(CLI::App& app, int&) {
  struct Options {
    std::vector<std::string> runs;
    std::string svg, title, baseline, by = "step";
    double high = 0;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("compare", "Validation loss and accuracy of several runs, seeds (name-s1, name-s2) together");
  command->add_option("runs", o->runs, "run directories")->required();
  command->add_option("--baseline", o->baseline, "Name of the run whose loss the others' are compared with");
  command->add_option("--svg", o->svg, "Draw the validation losses into this file");
  command->add_option("--title", o->title, "Of the drawing");
  command->add_option("--high", o->high, "Draw losses up to this one only");
  command->add_option("--by", o->by, "Draw over steps or over seconds of wall-clock time")
      ->check(CLI::IsMember({"step", "time"}))
      ->capture_default_str();
  command->add_flag("--json", o->json, "The result as JSON on stdout");
  command->callback([o] {
    std::vector<Group> groups = read_groups(o->runs);
    double baseline = std::nan("");
    for (const Group& g : groups)
      if (g.name == o->baseline) baseline = over_runs(g, [](const Run& r) { return r.validation.back().loss; }).mean;
    if (!o->baseline.empty() && std::isnan(baseline))
      throw core::Error({.where = "--baseline",
                         .expected = "the name of one of the runs",
                         .got = o->baseline,
                         .code = core::ExitCode::usage});
    std::vector<Record> rows;
    for (const Group& g : groups) rows.push_back(row_of(g, baseline));
    if (o->json)
      fmt::print("{}\n", Record{{"runs", rows}}.dump(1));
    else
      print_table(rows, o->baseline);
    if (o->svg.empty()) return;
    SeriesPlot plot{.title = o->title.empty() ? "Validation loss" : o->title,
                    .x_label = o->by == "time" ? "seconds" : "step",
                    .y_label = "nats per token",
                    .high = o->high};
    for (const Group& g : groups) plot.series.push_back(curve(g, o->by == "time"));
    write_file(o->svg, series_svg(plot), false);
  });
}

}  // namespace basis::trainers
