// Token ids against Hugging Face's tokenizers: tests/golden/tokenizers_parity.py wrote tests/golden/tokenizers.json.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "trainers/data/bpe.h"
#include "trainers/data/files.h"
#include "trainers/data/tokenizer.h"
#include "trainers/data/unicode.h"
#include "trainers/data/wordpiece.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<uint32_t>;

const nlohmann::json& golden() {
  static const nlohmann::json j =
      nlohmann::json::parse(std::ifstream(fs::path(BASIS_SOURCE_DIR) / "tests/golden/tokenizers.json"));
  return j;
}

void expect_same(const Tokenizer& t, const nlohmann::json& ids) {
  const auto& texts = golden()["texts"];
  ASSERT_EQ(texts.size(), ids.size());
  for (size_t i = 0; i < texts.size(); ++i)
    EXPECT_EQ(t.encode(texts[i].get<std::string>()), ids[i].get<Ids>()) << "text " << i;
}

TEST(TokenizerParity, WordPiece) {
  std::string vocab;
  for (const auto& token : golden()["wordpiece"]["vocab"]) vocab += token.get<std::string>() + "\n";
  expect_same(*parse_wordpiece(vocab, true, "vocab.txt"), golden()["wordpiece"]["ids"]);
}

TEST(Unicode, FoldsEveryCodePointAsPythonDoes) {
  // FNV-1a over (c, folded...) of each scalar value; Python: NFD, drop Mn, lower (Unicode 14).
  uint64_t h = 0xcbf29ce484222325;
  auto add = [&](char32_t c) { h = (h ^ c) * 0x100000001b3; };
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::u32string text;
    append_folded(text, c);
    add(c);
    for (char32_t x : text) add(x);
    add(char32_t(is_mark(c) + 2 * is_punctuation(c) + 4 * is_control(c)));
  }
  EXPECT_EQ(fmt::format("{:016x}", h), "3188143eb541fd53");
}

#if defined(BASIS_HAS_PCRE2)

TEST(TokenizerParity, ByteLevelBpe) {
  const auto& bpe = golden()["bpe"];
  expect_same(*parse_huggingface(bpe["json"].dump(), "tokenizer.json"), bpe["ids"]);
}

std::string fnv1a(const Ids& ids) {
  uint64_t h = 0xcbf29ce484222325;
  for (uint32_t id : ids) h = (h ^ id) * 0x100000001b3;
  return fmt::format("{:016x}", h);
}

class SharedTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(SharedTokenizer, GivesTheSameIds) {
  const char* root = std::getenv("BASIS_SHARED");
  fs::path shared = root ? root : fs::path(BASIS_SOURCE_DIR) / "../shared", dir = shared / "checkpoints" / GetParam();
  if (!fs::exists(dir)) GTEST_SKIP() << "no " << dir << "; BASIS_SHARED names the directory above checkpoints";
  bool bert = fs::exists(dir / "vocab.txt");
  TokenizerPtr t = bert ? parse_wordpiece(read_file(dir / "vocab.txt"), true, "vocab.txt") : load_tokenizer(dir);
  for (const auto& [file, expected] : golden()["shared"][GetParam()].items()) {
    Ids ids;
    if (file == "texts") {
      for (const auto& text : golden()["texts"]) {
        Ids more = t->encode(text.get<std::string>());
        ids.insert(ids.end(), more.begin(), more.end());
      }
    } else {
      ids = t->encode(read_file(shared / "data" / file));
    }
    EXPECT_EQ(int64_t(ids.size()), expected["tokens"].get<int64_t>()) << file;
    EXPECT_EQ(fnv1a(ids), expected["fnv1a"].get<std::string>()) << file;
  }
  if (!bert) {
    EXPECT_EQ(load_gpt2_bpe(dir / "vocab.json", dir / "merges.txt")->encode("the "), t->encode("the "));
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, SharedTokenizer, testing::Values("gpt2", "llama", "deepseek-mla", "bert"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

#endif

}  // namespace
}  // namespace basis::trainers
