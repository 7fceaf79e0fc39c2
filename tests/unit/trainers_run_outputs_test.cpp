#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

#include "trainers/run/loss_svg.h"
#include "trainers/run/numbers.h"
#include "trainers/run/progress.h"
#include "trainers/run/svg_axis.h"
#include "trainers/run/tensorboard.h"

namespace basis::trainers {
namespace {

// --- TensorBoard ------------------------------------------------------------------------------------------------

// CRC-32C bit by bit, for the framing.
uint32_t slow_masked_crc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (unsigned char byte : bytes) {
    crc ^= byte;
    for (int i = 0; i < 8; ++i) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

template <class T>
T take(std::string_view& bytes) {
  T value{};
  EXPECT_GE(bytes.size(), sizeof value);
  std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
  bytes.remove_prefix(std::min(bytes.size(), sizeof value));
  return value;
}

std::vector<std::string> records(const std::filesystem::path& file) {
  std::stringstream all;
  all << std::ifstream(file, std::ios::binary).rdbuf();
  std::string text = all.str();
  std::string_view rest = text;
  std::vector<std::string> out;
  while (!rest.empty() && !::testing::Test::HasFailure()) {
    std::string_view length_bytes = rest.substr(0, 8);
    auto length = take<uint64_t>(rest);
    EXPECT_EQ(take<uint32_t>(rest), slow_masked_crc(length_bytes));
    out.emplace_back(rest.substr(0, length));
    rest.remove_prefix(std::min<size_t>(length, rest.size()));
    EXPECT_EQ(take<uint32_t>(rest), slow_masked_crc(out.back()));
  }
  return out;
}

// The fields of a protobuf message by number (the last of each); varints and fixed numbers as 8 or 4 raw bytes.
std::map<uint32_t, std::string> decode(std::string_view message) {
  std::map<uint32_t, std::string> fields;
  auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; !message.empty(); shift += 7) {
      auto byte = take<uint8_t>(message);
      value |= uint64_t(byte & 0x7f) << shift;
      if (!(byte & 0x80)) break;
    }
    return value;
  };
  while (!message.empty()) {
    uint64_t key = varint(), size = 0;
    std::string& out = fields[uint32_t(key >> 3)];
    switch (key & 7) {
      case 0: {
        uint64_t value = varint();
        out.assign(reinterpret_cast<char*>(&value), 8);
        continue;
      }
      case 1:
        size = 8;
        break;
      case 2:
        size = varint();
        break;
      case 5:
        size = 4;
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
        return fields;
    }
    out = message.substr(0, size);
    message.remove_prefix(std::min<size_t>(size, message.size()));
  }
  return fields;
}

template <class T>
T as(std::string_view bytes) {
  return take<T>(bytes);
}

TEST(TensorBoard, Crc32cOfTheStandardsExample) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
}

TEST(TensorBoard, FileHoldsVersionScalarsAndText) {
  std::string directory = std::filesystem::temp_directory_path() / "basis_events_XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  std::filesystem::path first, second;
  {
    TensorBoardWriter writer(directory);
    first = writer.file();
    writer.scalar("train/loss", 300, 2.5);
    writer.text("sample", 300, "ab");
    TensorBoardWriter resumed(directory, 200);
    second = resumed.file();
  }
  EXPECT_LT(first.filename(), second.filename()) << "read in this order";
  EXPECT_EQ(first.filename().string().rfind("events.out.tfevents.", 0), 0u);

  auto events = records(first);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(decode(events[0])[3], "brain.Event:2");
  auto scalar = decode(events[1]);
  EXPECT_GT(as<double>(scalar[1]), 1.7e9);
  EXPECT_EQ(as<int64_t>(scalar[2]), 300);
  auto value = decode(decode(scalar[5])[1]);
  EXPECT_EQ(value[1], "train/loss");
  EXPECT_EQ(as<float>(value[2]), 2.5f);
  auto text = decode(decode(decode(events[2])[5])[1]);
  EXPECT_EQ(text[1], "sample");
  EXPECT_EQ(decode(text[8])[8], "ab");
  EXPECT_EQ(decode(decode(text[9])[1])[1], "text");

  auto later = records(second);
  ASSERT_EQ(later.size(), 2u);
  EXPECT_EQ(as<int64_t>(decode(later[1])[2]), 201);
  EXPECT_EQ(as<int64_t>(decode(decode(later[1])[7])[1]), 1);  // SessionLog.START
  std::filesystem::remove_all(directory);
}

TEST(TensorBoard, CodeBlockIndentsEveryLine) { EXPECT_EQ(markdown_code("a\nb"), "    a\n    b"); }

// --- the loss curve -----------------------------------------------------------------------------------------------

TEST(LossSvg, TicksAreRound) {
  Axis linear = make_axis(1.61, 4.7, 6, false, true);
  EXPECT_EQ(linear.low, 1);
  EXPECT_EQ(linear.high, 5);
  EXPECT_EQ(linear.ticks, (std::vector<double>{1, 2, 3, 4, 5}));
  EXPECT_EQ(linear.decimals, 0);
  Axis log = make_axis(1, 300000, 7, true, false);
  EXPECT_EQ(log.ticks, (std::vector<double>{1, 10, 100, 1000, 10000, 100000}));
  EXPECT_DOUBLE_EQ(Axis({.low = 1, .high = 100, .begin = 0, .end = 200, .log = true}).pixel(10), 100);
  Axis one = make_axis(2, 2, 6, false, true);
  EXPECT_LT(one.low, 2);
  EXPECT_GT(one.high, 2);
  EXPECT_EQ(make_axis(3.10, 3.14, 6, false, true).decimals, 2);
}

TEST(LossSvg, NumbersAreReadable) {
  EXPECT_EQ(with_thousands(1234567.25, 1), "1,234,567.2");
  EXPECT_EQ(with_thousands(-123, 0), "-123");
  EXPECT_EQ(with_thousands(1000, 0), "1,000");
  EXPECT_EQ(compact(0), "0");
  EXPECT_EQ(compact(2500), "2,500");
  EXPECT_EQ(compact(12500), "12.5k");
  EXPECT_EQ(compact(3e6), "3M");
}

TEST(LossSvg, HoldsBothCurvesAndTheBestValue) {
  LossCurve curve{.title = "a <b> & c", .train = {}, .validation = {{10, 3.5}, {20, 2.125}, {30, 2.5}}};
  for (int step = 1; step <= 200; ++step) curve.train.push_back({step, 4.0 / step});
  std::string svg = loss_svg(curve);
  EXPECT_NE(svg.find("a &lt;b&gt; &amp; c"), std::string::npos);
  EXPECT_NE(svg.find("class=\"train\""), std::string::npos);
  EXPECT_NE(svg.find("class=\"val\""), std::string::npos);
  EXPECT_NE(svg.find("best, step 20</text>"), std::string::npos);
  EXPECT_NE(svg.find(">2.1250</text>"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_EQ(svg.find("http", svg.find("viewBox")), std::string::npos) << "self-contained";
}

TEST(LossSvg, AnyTextIsXml) { EXPECT_EQ(xml_text("a\x1b\n\xff\"<\xc3\xa9>"), "a\\x1b \\xff&quot;&lt;\xc3\xa9&gt;"); }

TEST(LossSvg, NonFiniteNonPositiveAndEmptyDataDrawNoNaN) {
  double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  for (bool log : {false, true}) {
    LossCurve curve{.title = "t", .train = {{0, nan}, {1, inf}, {2, 0.0}, {3, 1.5}}, .log_loss = log, .log_step = log};
    for (const std::string& svg : {loss_svg(curve), loss_svg({.title = "none", .log_loss = log, .log_step = log})}) {
      EXPECT_EQ(svg.find("nan"), std::string::npos);
      EXPECT_EQ(svg.find("inf"), std::string::npos);
    }
  }
}

TEST(LossSvg, ALongRunStaysSmall) {
  LossCurve curve{.title = "long"};
  for (int step = 0; step < 300000; ++step) curve.train.push_back({step, 3 + std::sin(step * 1.7)});
  EXPECT_LT(loss_svg(curve).size(), 150000u);
}

// --- progress -------------------------------------------------------------------------------------------------------

ProgressState state() {
  return {.step = 1200,
          .max_steps = 2000,
          .loss = 1.91234,
          .val_loss = 2.0,
          .lr = 1e-3,
          .grad_norm = 0.5,
          .tokens_per_s = 12345,
          .eta_s = 72};
}

TEST(Progress, LineHoldsEverythingAndFitsAnyWidth) {
  EXPECT_EQ(format_progress(state()),
            "step 1,200/2,000   60%  loss 1.9123  val 2.0000  lr 1.00e-03  grad 0.5  12.3k tok/s  ETA 1m12s");
  for (int width : {10, 20, 40, 60, 80, 100, 140}) {
    EXPECT_LE(int(format_progress(state(), width, true).size()), width);
  }
  EXPECT_EQ(format_progress(state(), 40), "step 1,200/2,000  loss 1.9123  ETA 1m12s");
  EXPECT_EQ(format_progress(state(), 140, true).substr(0, 26), "[==============..........]");
}

TEST(Progress, Units) {
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(3599.9), "1h00m");
  EXPECT_EQ(format_duration(90061), "1d01h");
  EXPECT_EQ(format_count(812), "812");
  EXPECT_EQ(format_count(4.56e6), "4.56M");
  EXPECT_EQ(format_count(999.7), "1k");
}

TEST(Progress, APipeGetsPlainLinesAtLogIntervals) {
  std::FILE* out = std::tmpfile();
  {
    Progress progress(0, 100, out);
    progress.update({.step = 1, .loss = 5.0}, false);
    progress.note("saved step-1.h5\x1b[2J");
    progress.update({.step = 2, .loss = 4.0}, true);
  }
  std::rewind(out);
  char text[400] = {};
  size_t size = std::fread(text, 1, sizeof text - 1, out);
  std::fclose(out);
  std::string all(text, size);
  EXPECT_EQ(all.rfind("saved step-1.h5\\x1b[2J\nstep 2/100    2%  loss 4.0000  ETA ", 0), 0u) << all;
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 2);
  EXPECT_EQ(all.find('\r'), std::string::npos);
}

}  // namespace
}  // namespace basis::trainers
