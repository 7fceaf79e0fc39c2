#include "trainers/hf/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "trainers/hf/tensor_files.h"

namespace basis::trainers::hf {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;

class Safetensors : public ::testing::Test {
 protected:
  fs::path dir_ = fs::temp_directory_path() / ("basis_safetensors_" + std::to_string(::getpid()));
  void SetUp() override { fs::create_directories(dir_); }
  void TearDown() override { fs::remove_all(dir_); }

  static std::string file(const std::string& header, size_t data) {
    uint64_t length = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    return bytes + header + std::string(data, 'x');
  }
  static void expect_bad(const std::function<void()>& f, const std::string& text) {
    try {
      f();
      ADD_FAILURE() << "no error, expected one about: " << text;
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::ExitCode::bad_file) << e.what();
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << "'" << text << "' in: " << e.what();
    }
  }
  void spill(const std::string& name, const std::string& bytes) const {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
  }
};

TEST_F(Safetensors, EveryDtypeComesBackBitForBit) {
  NamedTensors tensors;
  for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u16, DType::u8})
    tensors.emplace_back("t/" + std::string(name_of(t)),
                         Tensor::from(std::vector<double>{1, 2, 3, 4, 5, 250}, {2, 3}).to(t));
  tensors.emplace_back("scalar", Tensor::full({}, 7, DType::f32));
  tensors.emplace_back("empty", Tensor::zeros({0, 4}, DType::f32));
  tensors.emplace_back("strided", Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}).transpose(0, 1));
  write_safetensors(dir_ / "a.safetensors", tensors);
  SafetensorsFile f(dir_ / "a.safetensors");
  EXPECT_EQ(f.header().metadata.at("format"), "pt");
  ASSERT_EQ(f.header().tensors.size(), tensors.size());
  for (const auto& [name, want] : tensors) {
    Tensor got = f.read(name), same = want.contiguous();
    ASSERT_EQ(got.dtype(), want.dtype()) << name;
    ASSERT_TRUE(got.shape() == want.shape()) << name;
    EXPECT_TRUE(!got.numel() || std::memcmp(got.raw(), same.raw(), size_t(got.bytes())) == 0) << name;
    EXPECT_EQ(f.header().tensors.at(name).offset % size_of(want.dtype()), 0) << name << " is not aligned";
  }
  expect_bad([&] { f.read("none"); }, "none");
}

TEST_F(Safetensors, BrokenFilesAreRefusedWithTheReason) {
  auto one = [](const std::string& dtype, const std::string& shape, const std::string& span) {
    return R"({"x":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + span + "}}";
  };
  auto two = [](const std::string& a, const std::string& b, const std::string& second = "y") {
    return R"({"x":{"dtype":"F32","shape":[1],"data_offsets":)" + a + R"(},")" + second +
           R"(":{"dtype":"F32","shape":[1],"data_offsets":)" + b + "}}";
  };
  std::string huge(8, '\xff');
  const struct {
    const char* what;
    std::string bytes, message;
  } cases[] = {
      {"empty", "", "8 bytes"},
      {"short", "1234567", "8 bytes"},
      {"header past the file", file("{}", 0).substr(0, 9), "header of 2 bytes"},
      {"header length overflows", huge + "{}", "header of 18446744073709551615"},
      {"not JSON", file("hello", 0), "JSON"},
      {"not UTF-8", file("{\"\xff\xfe\":1}", 0), "JSON"},
      {"not an object", file("[]", 0), "JSON object"},
      {"deep", file(std::string(100000, '['), 0), "levels"},
      {"entry is no object", file(R"({"x":3})", 0), "without \"dtype\""},
      {"no shape", file(R"({"x":{"dtype":"F32","data_offsets":[0,4]}})", 4), "without \"shape\""},
      {"no span", file(R"({"x":{"dtype":"F32","shape":[1]}})", 4), "without \"data_offsets\""},
      {"dtype is a number", file(one("3", "[1]", "[0,4]"), 4), "dtype as text"},
      {"unknown dtype", file(one("\"F31\"", "[1]", "[0,4]"), 4), "F31"},
      {"shape is text", file(one("\"F32\"", "\"1\"", "[0,4]"), 4), "shape as a list"},
      {"negative extent", file(one("\"F32\"", "[-1]", "[0,4]"), 4), "-1"},
      {"fractional extent", file(one("\"F32\"", "[1.5]", "[0,4]"), 4), "1.5"},
      {"extent beyond 2^63", file(one("\"F32\"", "[18446744073709551615]", "[0,4]"), 4), "2^63"},
      {"product overflows", file(one("\"F32\"", "[4294967296,4294967296]", "[0,4]"), 4), "2^63 bytes"},
      {"overflow to the right span", file(one("\"F32\"", "[4611686018427387904]", "[0,0]"), 0), "2^63 bytes"},
      {"span of another size", file(one("\"F32\"", "[2]", "[0,4]"), 4), "8 bytes for F32 [2]"},
      {"span of another dtype", file(one("\"F16\"", "[1]", "[0,4]"), 4), "2 bytes for F16"},
      {"span past the file", file(one("\"F32\"", "[2]", "[0,8]"), 4), "cut short"},
      {"span backwards", file(one("\"F32\"", "[1]", "[4,0]"), 4), "data_offsets within"},
      {"span of three", file(one("\"F32\"", "[1]", "[0,4,8]"), 4), "[begin, end]"},
      {"span of text", file(one("\"F32\"", "[1]", "[\"0\",4]"), 4), "numbers"},
      {"overlap", file(two("[0,4]", "[0,4]"), 4), "overlap"},
      {"hole", file(two("[0,4]", "[8,12]"), 12), "hole"},
      {"hole at the front", file(one("\"F32\"", "[1]", "[4,8]"), 8), "hole"},
      {"bytes left over", file(one("\"F32\"", "[1]", "[0,4]"), 6), "2 bytes that belong to none"},
      {"duplicate name", file(two("[0,4]", "[4,8]", "x"), 8), "\"x\" twice"},
      {"duplicate key", file(R"({"x":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}})", 4), "twice"},
      {"metadata is a list", file(R"({"__metadata__":[1]})", 0), "__metadata__"},
      {"metadata of numbers", file(R"({"__metadata__":{"a":1}})", 0), "__metadata__"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    expect_bad([&] { parse_safetensors(std::as_bytes(std::span(c.bytes)), "bad.safetensors"); }, c.message);
  }
  std::string good = file(two("[4,8]", "[0,4]"), 8);
  EXPECT_EQ(parse_safetensors(std::as_bytes(std::span(good)), "good").tensors.size(), 2u);
}

TEST_F(Safetensors, DtypesWithoutATensorAreListedButNotRead) {
  spill("f8.safetensors", file(R"({"x":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4));
  SafetensorsFile f(dir_ / "f8.safetensors");
  EXPECT_EQ(f.header().tensors.at("x").bytes, 4);
  expect_bad([&] { f.read("x"); }, "F8_E4M3");
  spill("deep.safetensors", file(R"({"x":{"dtype":"U8","shape":[1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1));
  expect_bad([&] { SafetensorsFile(dir_ / "deep.safetensors").read("x"); }, "6 dimensions");
}

TEST_F(Safetensors, ShardsAndTheirIndex) {
  NamedTensors tensors;
  for (int i = 0; i < 5; ++i) tensors.emplace_back("w" + std::to_string(i), Tensor::full({4}, i, DType::f32));
  write_tensor_files(dir_, tensors, 32);
  EXPECT_TRUE(fs::exists(dir_ / "model-00003-of-00003.safetensors"));
  TensorFiles files(dir_);
  EXPECT_EQ(files.names().size(), 5u);
  EXPECT_EQ(files.bytes(), 80);
  EXPECT_EQ(files.read("w3").to_vector<float>()[0], 3);

  const std::string shard = "\"model-00001-of-00003.safetensors\"";
  auto index = [&](const std::string& map) { spill("model.safetensors.index.json", "{\"weight_map\": " + map + "}"); };
  const struct {
    const char* what;
    std::string map, message;
  } cases[] = {
      {"absent file", R"({"w0": "model-00009-of-00009.safetensors"})", "no such file"},
      {"absent tensor", "{\"w0\":" + shard + ",\"w1\":" + shard + ",\"w9\":" + shard + "}", "a shard without it"},
      {"tensor left out", "{\"w0\":" + shard + "}", "no entry"},
      {"path upwards", R"({"w0": "../a.safetensors"})", "beside the index"},
      {"absolute path", R"({"w0": "/etc/passwd"})", "beside the index"},
      {"hidden", R"({"w0": ".a"})", "beside the index"},
      {"number", R"({"w0": 1})", "file name for w0"},
      {"empty", "{}", "weight_map"},
      {"list", "[]", "weight_map"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    index(c.map);
    expect_bad([&] { TensorFiles files(dir_); }, c.message);
  }
  fs::remove(dir_ / "model.safetensors.index.json");
  expect_bad([&] { TensorFiles files(dir_); }, "neither");
}

}  // namespace
}  // namespace basis::trainers::hf
