#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "trainers/run/files.h"
#include "trainers/run/metrics.h"
#include "trainers/run/run_directory.h"
#include "trainers/run/signals.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

class RunFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "basis_run_XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  static std::string content(const fs::path& file) {
    std::stringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
  }
  static size_t entries(const fs::path& directory) {
    return size_t(std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
  }

  fs::path root_;
};

// What `body` throws, as text; empty if nothing.
template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
  } catch (const core::Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(RunFiles, WriteFileReplacesAndLeavesNothingElse) {
  write_file(root_ / "a", "one");
  write_file(root_ / "a", "two", false);
  EXPECT_EQ(content(root_ / "a"), "two");
  EXPECT_EQ(entries(root_), 1u);
}

TEST_F(RunFiles, AFailedWriteKeepsTheOldFileAndSaysWhy) {
  fs::create_directories(root_ / "a" / "not_empty");  // a directory that rename cannot replace
  std::string error = error_of([&] { write_file(root_ / "a", "x"); });
  EXPECT_NE(error.find("/a"), std::string::npos) << error;
  EXPECT_EQ(entries(root_), 1u) << "the temporary file stays";
  error = error_of([&] { write_file(root_ / "nowhere" / "b", "x"); });
  EXPECT_NE(error.find("No such file"), std::string::npos) << error;
}

TEST_F(RunFiles, AFullDiskNamesTheRemedy) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  std::FILE* full = std::fopen("/dev/full", "w");
  ASSERT_NE(full, nullptr);
  std::string error = error_of([&] { write_all(::fileno(full), "x", "/dev/full"); });
  std::fclose(full);
  EXPECT_NE(error.find("the disk is full"), std::string::npos) << error;
}

TEST_F(RunFiles, DirectoryIsMadeAndLockedForOneOwner) {
  fs::path path = root_ / "runs" / "first";
  {
    RunDirectory run(path);
    run.write_config("run: {}\n");
    EXPECT_EQ(content(path / "config.yaml"), "run: {}\n");
    EXPECT_EQ(content(run.write_sample(7, "To be")), "To be");
    EXPECT_EQ(run.checkpoint(12), path / "checkpoints" / "step-12.h5");
    std::string error = error_of([&] { RunDirectory again(path); });
    EXPECT_NE(error.find("process " + std::to_string(::getpid())), std::string::npos) << error;
    RunDirectory moved(std::move(run));
    EXPECT_FALSE(error_of([&] { RunDirectory again(path); }).empty()) << "a move must keep the lock";
  }
  EXPECT_EQ(error_of([&] { RunDirectory again(path); }), "");
}

TEST_F(RunFiles, TheLockDiesWithItsProcess) {
  pid_t child = ::fork();
  if (child == 0) {
    RunDirectory run(root_);
    ::raise(SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(error_of([&] { RunDirectory run(root_); }), "");
}

TEST_F(RunFiles, OpeningRemovesHalfWrittenFilesOnly) {
  { RunDirectory run(root_); }
  fs::path checkpoints = root_ / "checkpoints";
  for (const char* name : {"step-5.h5", "step-5.h5.tmp.123", "step-30.h5", "step-x.h5", "step-.h5", "step-7.h5.bak"}) {
    std::ofstream(checkpoints / name) << "x";
  }
  RunDirectory run(root_);
  EXPECT_FALSE(fs::exists(checkpoints / "step-5.h5.tmp.123"));
  EXPECT_TRUE(fs::exists(checkpoints / "step-7.h5.bak"));
  auto found = checkpoint_files(root_);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].step, 30);
  EXPECT_EQ(found[1].path, checkpoints / "step-5.h5");
  EXPECT_TRUE(checkpoint_files(root_ / "nowhere").empty());
}

TEST_F(RunFiles, AFileInTheWayOfTheDirectoryIsAnError) {
  std::ofstream(root_ / "file") << "x";
  EXPECT_FALSE(error_of([&] { RunDirectory run(root_ / "file"); }).empty());
  EXPECT_FALSE(error_of([&] { RunDirectory run(root_ / "file" / "below"); }).empty());
}

TEST_F(RunFiles, MetricsContinueAfterTheResumedStep) {
  fs::path file = root_ / "metrics.jsonl";
  {
    MetricsLog log(file);
    for (int step : {1, 2, 3}) log.append({{"step", step}, {"loss", 0.1 * step}});
    log.append({{"step", 2}, {"loss", std::nan("")}});
  }
  std::ofstream(file, std::ios::app) << "{\"step\": 2, \"lo";  // torn
  {
    MetricsLog log(file, 2);
    log.append({{"step", 3}, {"loss", 7.5}});
  }
  EXPECT_EQ(
      content(file),
      "{\"step\":1,\"loss\":0.1}\n{\"step\":2,\"loss\":0.2}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"loss\":7.5}\n");
  EXPECT_EQ(read_metrics(file).size(), 4u);
  { MetricsLog anew(file); }
  EXPECT_EQ(content(file), "");
}

TEST_F(RunFiles, MetricsNeedAStep) {
  MetricsLog log(root_ / "m");
  EXPECT_FALSE(error_of([&] { log.append({{"loss", 1.0}}); }).empty());
  EXPECT_TRUE(read_metrics(root_ / "nowhere").empty());
}

TEST(StopSignals, FirstIsNotedAndHandlersAreRestored) {
  auto before = std::signal(SIGTERM, SIG_IGN);
  {
    StopSignals signals;
    EXPECT_EQ(signals.caught(), 0);
    ::raise(SIGTERM);
    EXPECT_EQ(signals.caught(), SIGTERM);
  }
  ::raise(SIGTERM);  // ignored again, or the test dies here
  std::signal(SIGTERM, before);
  StopSignals again;
  EXPECT_EQ(again.caught(), 0);
}

TEST(StopSignals, SecondEndsTheProcess) {
  pid_t child = ::fork();
  if (child == 0) {
    StopSignals signals;
    ::raise(SIGTERM);
    ::raise(SIGINT);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGINT);
}

}  // namespace
}  // namespace basis::trainers
