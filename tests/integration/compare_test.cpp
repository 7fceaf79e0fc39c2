// basis compare: what it says of metrics files, seeds taken together.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/process.h"
#include "trainers/run/series_svg.h"

namespace basis {
namespace {

namespace fs = std::filesystem;

class Compare : public testing::Test {
 protected:
  Compare() {
    metrics("dense-s1", R"({"step":5,"loss":2,"tokens_per_s":100}
{"step":10,"val_loss":1.5,"val_accuracy":0.5,"elapsed":1}
{"step":20,"val_loss":1.0,"val_accuracy":0.75,"elapsed":2})");
    metrics("dense-s2", R"({"step":10,"val_loss":1.7,"val_accuracy":0.5,"elapsed":1}
{"step":20,"val_loss":1.2,"val_accuracy":0.25,"elapsed":4})");
    metrics("other", R"({"step":10,"val_loss":1.0,"val_accuracy":0.5,"elapsed":1}
{"step":20,"val_loss":1.35,"val_accuracy":0.5,"elapsed":2})");
    metrics("empty", R"({"step":5,"loss":2})");
  }
  ~Compare() override { fs::remove_all(directory_); }

  void metrics(const std::string& run, const std::string& lines) {
    fs::create_directories(directory_ / run);
    std::ofstream(directory_ / run / "metrics.jsonl") << lines << "\n";
  }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  int run(tests::Arguments arguments) const {
    arguments.insert(arguments.begin(), {BASIS_BINARY, "compare"});
    return tests::finish_process(tests::start_process(arguments, path("log")));
  }
  std::string read(const std::string& name) const {
    std::ostringstream s;
    s << std::ifstream(directory_ / name).rdbuf();
    return s.str();
  }

  fs::path directory_ = fs::temp_directory_path() / ("basis_compare_test_" + std::to_string(getpid()));
};

TEST_F(Compare, TakesSeedsTogether) {
  ASSERT_EQ(run({path("dense-s1/"), path("other"), path("dense-s2"), "--baseline", "dense", "--svg", path("a.svg")}), 0)
      << read("log");
  std::string table = read("log"), svg = read("a.svg");
  EXPECT_NE(table.find("| dense | 2 | 20 | 1.1000 | 1.0000 to 1.2000 | 1.1000 | +0.0000 | 0.5000 | 3 |"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("| other | 1 | 20 | 1.3500 | 1.3500 to 1.3500 | 1.0000 | +0.2500 | 0.5000 | 2 |"),
            std::string::npos)
      << table;
  EXPECT_NE(svg.find(">dense</text>"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST_F(Compare, NamesWhatIsMissing) {
  EXPECT_EQ(run({path("empty")}), 4);
  EXPECT_NE(read("log").find("evaluation"), std::string::npos) << read("log");
  EXPECT_EQ(run({path("absent")}), 4) << read("log");
  EXPECT_EQ(run({path("other"), "--baseline", "dense"}), 2) << read("log");
  EXPECT_NE(read("log").find("--baseline"), std::string::npos);
}

TEST(SeriesSvg, LeavesOutWhatCannotBeDrawn) {
  trainers::SeriesPlot plot{.title = "a < b", .series = {{"one", {{1, 2}, {2, NAN}, {3, 1}, {4, 50}}}, {"none", {}}}};
  plot.high = 10;
  std::string svg = trainers::series_svg(plot);
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find(">50<"), std::string::npos);
}

}  // namespace
}  // namespace basis
