#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "core/error.h"
#include "trainers/data/bpe.h"
#include "trainers/data/dataset.h"
#include "trainers/data/shard.h"
#include "trainers/data/source.h"
#include "trainers/data/wordpiece.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

#if defined(BASIS_HAS_PCRE2)
constexpr bool kHasPcre2 = true;
#else
constexpr bool kHasPcre2 = false;
#endif

class Files : public testing::Test {
 protected:
  Files() { fs::create_directories(directory_); }
  ~Files() override { fs::remove_all(directory_); }
  std::string write(const std::string& name, const std::string& bytes) {
    std::ofstream(directory_ / name, std::ios::binary) << bytes;
    return (directory_ / name).string();
  }
  fs::path directory_ = fs::temp_directory_path() / ("basis_data_test_" + std::to_string(getpid()));
};

std::string text() {
  std::string t;
  for (int i = 0; i < 400; ++i) t += "the cat sat on the mat " + std::to_string(i * 37 % 101) + "\n";
  return t;
}

TEST(Tokenizers, RoundTripAndSerialise) {
  std::vector<TokenizerPtr> all{byte_tokenizer(), char_tokenizer(text())};
  if (kHasPcre2) all.push_back(bpe_tokenizer(train_bpe(text(), 300), "test"));
  for (const TokenizerPtr& t : all) {
    auto ids = t->encode(text());
    EXPECT_EQ(t->decode(ids), text()) << t->type();
    for (uint32_t id : ids) ASSERT_LT(id, t->vocab_size());
    TokenizerPtr again = parse_tokenizer(t->serialise());
    EXPECT_EQ(again->hash(), t->hash());
    EXPECT_EQ(again->encode(text()), ids);
  }
}

TEST(Tokenizers, TrainedBpeIsShorterThanBytes) {
  if (!kHasPcre2) GTEST_SKIP() << "built without PCRE2";
  EXPECT_LT(bpe_tokenizer(train_bpe(text(), 300), "test")->encode(text()).size() * 2, text().size());
}

TEST(Tokenizers, CharRefusesUnknownCharacters) { EXPECT_THROW(char_tokenizer("abc")->encode("abd"), core::Error); }

TEST(Tokenizers, WordPieceTakesTheLongestPiece) {
  auto t = parse_wordpiece("[UNK]\n[MASK]\nplay\n##ing\n##ed\n!\n", true, "vocab.txt");
  EXPECT_EQ(t->encode("Playing PLAYED! pray"), (std::vector<uint32_t>{2, 3, 2, 4, 5, 0}));
  EXPECT_EQ(*t->special("[MASK]"), 1u);
  EXPECT_THROW(parse_wordpiece("a\nb\n", true, "vocab.txt"), core::Error);
}

TEST(Order, EveryEpochIsAPermutationAndBatchesDoNotDependOnTheCut) {
  auto source = memory_source(byte_tokenizer()->encode(text()), "text", 256);
  TextOptions o{.seq_len = 16, .global_batch = 8, .seed = 3};
  auto data = language_model(source, o);
  for (int64_t step : {0, 5, 1000}) {
    Batch whole = data->batch(step, 0, 8), half = data->batch(step, 4, 4);
    EXPECT_TRUE(std::equal(half.inputs.begin(), half.inputs.end(), whole.inputs.begin() + 4 * 16));
  }
  Batch a = data->batch(2, 0, 8);
  for (int64_t r = 0; r < 8; ++r)
    for (int64_t t = 0; t + 1 < 16; ++t) EXPECT_EQ(a.targets[size_t(r * 16 + t)], a.inputs[size_t(r * 16 + t + 1)]);
}

TEST_F(Files, ShardsAndBinsReadBack) {
  auto tokenizer = byte_tokenizer();
  auto ids = tokenizer->encode(text());
  std::vector<uint64_t> documents{0};
  write_shard(directory_ / "a.h5", ids, documents, *tokenizer);
  std::string raw;  // nanoGPT: u16
  for (uint32_t id : ids) raw += {char(id & 0xff), char(id >> 8)};
  std::string header(1024, '\0');  // llm.c: 256 int32
  uint32_t fields[3] = {20240520, 1, uint32_t(ids.size())};
  memcpy(header.data(), fields, sizeof fields);
  for (const std::string& path : {(directory_ / "a.h5").string(), write("nano.bin", raw),
                                  write("llmc.bin", header + raw), write("a.txt", text())}) {
    auto source = open_source(path, {.vocab_size = 256, .tokenizer = tokenizer});
    ASSERT_EQ(source->size(), int64_t(ids.size())) << path;
    std::vector<int32_t> got(100);
    source->read(50, 100, got.data());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), ids.begin() + 50)) << path;
  }
}

TEST_F(Files, UnusableFilesAreErrorsOfTheirOwnExitCode) {
  std::string header(1024, '\0');
  uint32_t fields[3] = {20240520, 1, 5};
  memcpy(header.data(), fields, sizeof fields);
  std::vector<std::string> paths = {write("empty.bin", ""),     write("odd.bin", "abc"),
                                    write("short.bin", header), write("fake.h5", "not hdf5"),
                                    directory_.string(),        (directory_ / "absent.txt").string()};
  for (const std::string& path : paths) {
    try {
      auto source = open_source(path, {.vocab_size = 256, .tokenizer = byte_tokenizer()});
      FAIL() << path << " was accepted";
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::ExitCode::bad_file) << path << ": " << e.what();
    }
  }
}

TEST_F(Files, IdsOutsideTheVocabularyAreFoundOnTheHost) {
  auto source = open_source(write("big.bin", std::string("\x01\x00\xff\xff\x02\x00", 6)), {.vocab_size = 256});
  std::vector<int32_t> got(3);
  EXPECT_THROW(source->read(0, 3, got.data()), core::Error);
}

TEST(Synthetic, ScoresItsAnswersOnly) {
  for (const char* task : {"copy", "induction", "mqar"}) {
    auto data =
        synthetic({.task = parse_synthetic(task), .seq_len = 32, .global_batch = 4, .vocab_size = 32, .seed = 1});
    Batch b = data->batch(7, 0, 4);
    EXPECT_GT(b.scored, 0) << task;
    EXPECT_LT(b.scored, 4 * 32) << task;
    EXPECT_EQ(b.inputs, data->batch(7, 0, 4).inputs);
    EXPECT_NE(b.inputs, data->batch(8, 0, 4).inputs);
  }
}

}  // namespace
}  // namespace basis::trainers
