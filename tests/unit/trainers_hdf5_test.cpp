#include "trainers/hdf5.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
using core::Error;
using core::ExitCode;

class Hdf5 : public ::testing::Test {
 protected:
  fs::path dir_ = fs::temp_directory_path() / ("basis_hdf5_" + std::to_string(::getpid()));
  fs::path path_ = dir_ / "a.h5";
  void SetUp() override { fs::create_directories(dir_); }
  void TearDown() override { fs::remove_all(dir_); }

  void write_one() const {
    auto f = Hdf5File::create(path_);
    std::vector<float> x(1000);
    std::iota(x.begin(), x.end(), 0.5f);
    f.write<float>("/model/layers/0/weight", std::vector<int64_t>{20, 50}, x);
    f.close();
  }
  static std::string slurp(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void spill(const fs::path& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
  }
  static void expect_error(const std::function<void()>& f, ExitCode code, const std::string& text) {
    try {
      f();
      ADD_FAILURE() << "no error, expected one about: " << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  }
};

TEST_F(Hdf5, ChecksumIsCrc32c) {
  EXPECT_EQ(crc32c("123456789", 9), 0xE3069283u);  // RFC 3720's check value
  EXPECT_EQ(crc32c("56789", 5, crc32c("1234", 4)), 0xE3069283u);
  EXPECT_EQ(crc32c("", 0), 0u);
}

template <class T>
void round_trip(const fs::path& path, std::vector<T> values) {
  auto f = Hdf5File::create(path);
  f.write<T>("/g/x", std::vector<int64_t>{int64_t(values.size())}, values);
  f.close();
  auto r = Hdf5File::open(path);
  EXPECT_EQ(r.info("/g/x").type, element_type<T>());
  auto back = r.read<T>("/g/x");
  ASSERT_EQ(back.size(), values.size());
  EXPECT_EQ(std::memcmp(back.data(), values.data(), values.size() * sizeof(T)), 0);
}

TEST_F(Hdf5, EveryElementTypeComesBackBitEqual) {
  round_trip<uint8_t>(path_, {0, 1, 255});
  round_trip<uint16_t>(path_, {0, 65535});
  round_trip<uint32_t>(path_, {0, 0xffffffffu});
  round_trip<uint64_t>(path_, {0, ~uint64_t{0}});
  round_trip<int32_t>(path_, {-1, 7});
  round_trip<int64_t>(path_, {INT64_MIN, INT64_MAX});
  round_trip<float>(path_, {1.5f, -0.0f, std::numeric_limits<float>::quiet_NaN()});
  round_trip<double>(path_, {1e-308, -1e308});
  round_trip<core::bf16>(path_, {core::bf16(1.5f), core::bf16(-3e38f)});
  round_trip<core::f16>(path_, {core::f16(1.5f), core::f16(6e-8f)});
}

TEST_F(Hdf5, AnyRankIncludingScalarAndEmpty) {
  auto f = Hdf5File::create(path_);
  std::vector<int32_t> one{42}, none;
  f.write<int32_t>("/scalar", std::vector<int64_t>{}, one);
  f.write<int32_t>("/empty", std::vector<int64_t>{3, 0, 2}, none);
  f.close();
  auto r = Hdf5File::open(path_);
  EXPECT_EQ(r.read<int32_t>("/scalar"), one);
  EXPECT_EQ(r.info("/empty").shape, (std::vector<int64_t>{3, 0, 2}));
  EXPECT_TRUE(r.read<int32_t>("/empty").empty());
}

TEST_F(Hdf5, AttributesListingAndExistence) {
  auto f = Hdf5File::create(path_);
  f.create_group("/a/b");
  f.set("/", "format", "basis checkpoint");
  f.set("/a/b", "step", int64_t{-5});
  f.set("/a/b", "lr", 1e-4);
  f.set("/a/b", "step", int64_t{6});  // replaces
  std::string long_text(300'000, 'x');
  f.set("/a", "config", long_text + "é");
  EXPECT_TRUE(f.exists("/a/b"));
  f.close();
  auto r = Hdf5File::open(path_);
  EXPECT_EQ(r.get_string("/", "format"), "basis checkpoint");
  EXPECT_EQ(r.get_int("/a/b", "step"), 6);
  EXPECT_EQ(r.get_double("/a/b", "lr"), 1e-4);
  EXPECT_EQ(r.get_string("/a", "config"), long_text + "é");
  EXPECT_EQ(r.attributes("/a/b"), (std::vector<std::string>{"lr", "step"}));
  EXPECT_EQ(r.list("/"), (std::vector<std::string>{"a"}));
  EXPECT_TRUE(r.exists("/a/b"));
  EXPECT_FALSE(r.exists("/a/c/d"));
  EXPECT_FALSE(r.is_dataset("/a"));
  expect_error([&] { r.get_int("/", "format"); }, ExitCode::bad_file, "an integer");
  expect_error([&] { r.get_string("/a/b", "step"); }, ExitCode::bad_file, "a string");
  expect_error([&] { r.get_int("/", "none"); }, ExitCode::bad_file, "the attribute none");
  expect_error([&] { r.info("/a"); }, ExitCode::bad_file, "a dataset");
  expect_error([&] { r.info("/nothing"); }, ExitCode::bad_file, "none of that name");
  expect_error([&] { r.info("relative"); }, ExitCode::bad_file, "absolute");
}

TEST_F(Hdf5, WritesInPartsAndReadsRanges) {
  auto f = Hdf5File::create(path_);
  std::vector<uint16_t> a{1, 2, 3}, b{4, 5};
  std::vector<int64_t> shape{5};
  f.create_dataset("/tokens", Element::u16, shape);
  f.write_range("/tokens", 0, 3, a.data());
  f.write_range("/tokens", 3, 2, b.data());
  f.set_checksum("/tokens", crc32c(b.data(), 4, crc32c(a.data(), 6)));
  expect_error([&] { f.write_range("/tokens", 4, 2, b.data()); }, ExitCode::runtime, "within 5");
  f.close();
  auto r = Hdf5File::open(path_);
  EXPECT_EQ(r.read<uint16_t>("/tokens"), (std::vector<uint16_t>{1, 2, 3, 4, 5}));
  std::vector<uint16_t> part(3);
  r.read_range("/tokens", Element::u16, 1, 3, part.data());
  EXPECT_EQ(part, (std::vector<uint16_t>{2, 3, 4}));
  std::string bytes = slurp(path_);  // file_offset is where the values lie
  EXPECT_EQ(std::memcmp(bytes.data() + r.info("/tokens").file_offset, a.data(), 6), 0);
}

TEST_F(Hdf5, DamagedDataFailsTheChecksum) {
  write_one();
  std::string bytes = slurp(path_);
  int64_t at = Hdf5File::open(path_).info("/model/layers/0/weight").file_offset;
  bytes[size_t(at) + 100] ^= 1;
  spill(path_, bytes);
  auto r = Hdf5File::open(path_);
  expect_error([&] { r.read<float>("/model/layers/0/weight"); }, ExitCode::bad_file, "checksum");
}

TEST_F(Hdf5, WrongTypeOrSizeIsRefused) {
  write_one();
  auto r = Hdf5File::open(path_);
  expect_error([&] { r.read<double>("/model/layers/0/weight"); }, ExitCode::bad_file, "expected f64, got f32");
  std::vector<float> x(10);
  expect_error([&] { r.read("/model/layers/0/weight", Element::f32, x.data(), 40); }, ExitCode::bad_file, "40 bytes");
}

TEST_F(Hdf5, BrokenFiles) {
  expect_error([&] { Hdf5File::open(dir_ / "absent.h5"); }, ExitCode::bad_file, "No such file");
  expect_error([&] { Hdf5File::open(dir_); }, ExitCode::bad_file, "a directory");
  spill(path_, "");
  expect_error([&] { Hdf5File::open(path_); }, ExitCode::bad_file, "an empty file");
  spill(path_, std::string(5000, 'x'));
  expect_error([&] { Hdf5File::open(path_); }, ExitCode::bad_file, "no HDF5 signature");
  write_one();
  std::string whole = slurp(path_);
  for (size_t keep : {size_t{8}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    spill(path_, whole.substr(0, keep));
    expect_error([&] { Hdf5File::open(path_).read<float>("/model/layers/0/weight"); }, ExitCode::bad_file, "a.h5");
  }
  expect_error([&] { Hdf5File::create(dir_ / "no" / "such" / "x.h5"); }, ExitCode::runtime, "cannot create");
}

TEST_F(Hdf5, AFullDiskIsReported) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  expect_error(
      [&] {
        auto f = Hdf5File::create("/dev/full");
        std::vector<uint8_t> x(1 << 20);
        f.write<uint8_t>("/x", std::vector<int64_t>{1 << 20}, x);
        f.close();
      },
      ExitCode::runtime, "/dev/full");
}

}  // namespace
}  // namespace basis::trainers
