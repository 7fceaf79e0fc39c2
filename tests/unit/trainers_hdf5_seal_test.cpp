// A damaged, truncated or foreign HDF5 file is refused before the HDF5 library parses it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "trainers/hdf5.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

class Seal : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::temp_directory_path() / ("basis_seal_" + std::to_string(getpid()) + ".h5");
    Hdf5File file = Hdf5File::create(path_);
    file.write<float>("/a/b", std::vector<int64_t>{2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
    file.write<float>("/c", std::vector<int64_t>{1}, std::vector<float>{7});
    file.set("/", "step", int64_t{3});
    file.close();
  }
  void TearDown() override { fs::remove(path_); }

  void put(int64_t at, char byte) {
    std::fstream f(path_, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(at);
    f.put(byte);
  }
  std::string refusal() {
    try {
      Hdf5File::open(path_);
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::ExitCode::bad_file);
      return e.what();
    }
    return "";
  }

  fs::path path_;
};

TEST_F(Seal, HoldsOnAFinishedFile) {
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(Hdf5File::open(path_).read<float>("/a/b"), (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST_F(Seal, CatchesEveryByteThatIsNotAnElement) {
  Hdf5File file = Hdf5File::open(path_);
  int64_t first = file.info("/a/b").file_offset, second = file.info("/c").file_offset;
  file.close();
  int64_t size = int64_t(fs::file_size(path_));
  std::ifstream in(path_, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  for (int64_t at = 0; at < size; ++at) {
    bool element = (at >= first && at < first + 24) || (at >= second && at < second + 4);
    put(at, char(bytes[size_t(at)] ^ 0x10));
    EXPECT_EQ(refusal().empty(), element) << "byte " << at;
    put(at, bytes[size_t(at)]);
  }
}

TEST_F(Seal, CatchesDamagedElementsByTheirOwnChecksum) {
  put(Hdf5File::open(path_).info("/c").file_offset, 99);
  EXPECT_THROW(Hdf5File::open(path_).read<float>("/c"), core::Error);
}

TEST_F(Seal, CatchesEveryTruncation) {
  for (auto size = int64_t(fs::file_size(path_)) - 1; size >= 0; size -= 7) {
    fs::resize_file(path_, uintmax_t(size));
    EXPECT_NE(refusal(), "") << size << " bytes";
  }
}

}  // namespace
}  // namespace basis::trainers
