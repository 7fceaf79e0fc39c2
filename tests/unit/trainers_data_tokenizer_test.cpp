#include "trainers/data/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "trainers/data/bpe.h"
#include "trainers/data/files.h"
#include "trainers/data/wordpiece.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<uint32_t>;

void expect_bad(const std::function<void()>& f, const std::string& text) {
  try {
    f();
    ADD_FAILURE() << "no error, expected one about: " << text;
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::ExitCode::bad_file) << e.what();
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
  }
}

void expect_same(const Tokenizer& a, const std::string& text) {
  TokenizerPtr b = parse_tokenizer(a.serialise());
  EXPECT_EQ(a.hash(), b->hash());
  EXPECT_EQ(a.encode(text), b->encode(text));
}

TEST(Tokenizer, ByteIsTheIdentity) {
  std::string text("a\0\xff é", 6);
  TokenizerPtr t = byte_tokenizer();
  EXPECT_EQ(t->encode(text)[2], 255u);
  EXPECT_EQ(t->decode(t->encode(text)), text);
  expect_same(*t, text);
  Ids wrong{1, 256};
  expect_bad([&] { t->decode(wrong); }, "256 at position 1");
}

TEST(Tokenizer, CharSortsCodePoints) {
  TokenizerPtr t = char_tokenizer("hé\n€h😀");
  EXPECT_EQ(t->vocab_size(), 5);
  EXPECT_EQ(t->encode("\nhé€😀"), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(t->decode(t->encode("€é😀")), "€é😀");
  expect_same(*t, "hé");
  EXPECT_NE(t->hash(), char_tokenizer("abc")->hash());
  expect_bad([&] { t->encode("h\nhx"); }, "'x' (U+0078) at byte 3 (line 2)");
  expect_bad([&] { t->encode("h\xff"); }, "byte 0xff at byte 1");
  expect_bad([&] { char_tokenizer("a\xed\xa0\x80", "x.txt"); }, "x.txt");  // a surrogate
  expect_bad([&] { char_tokenizer(""); }, "none");
}

#if defined(BASIS_HAS_PCRE2)

const char* kText = "the cat sat on the mat, the bat isn't\n\n  at 12345 the 猫 é! ";

TEST(Tokenizer, BpeTrainsAndRoundTrips) {
  BpeModel model = train_bpe(kText, 280);
  // "at" occurs in cat, sat, mat, bat, " at"; "th"/"he"/" t" four times each.
  EXPECT_EQ(model.merges[0], (std::pair<std::string, std::string>{"a", "t"}));
  TokenizerPtr t = bpe_tokenizer(model, "test");
  EXPECT_EQ(t->decode(t->encode(kText)), kText);
  EXPECT_LT(t->encode(kText).size(), std::string(kText).size());
  std::string binary("\xff\xfe ok \x80", 7);
  EXPECT_EQ(t->decode(t->encode(binary)), binary);
  EXPECT_EQ(t->special("<|endoftext|>"), std::optional<uint32_t>(0));
  Ids ids = t->encode("at<|endoftext|>at");
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(ids[1], 0u);
  expect_same(*t, kText);
}

TEST(Tokenizer, BpeTrainingOfRunsStaysConsistent) {
  TokenizerPtr t = bpe_tokenizer(train_bpe("aaaaaaa aaa aaaaaaaa aa", 262), "test");
  EXPECT_EQ(t->decode(t->encode("aaaaa aaaaaaaaaaaa")), "aaaaa aaaaaaaaaaaa");
  EXPECT_GT(t->vocab_size(), 258);
}

TEST(Tokenizer, BpeLongWordIsNotQuadratic) {
  TokenizerPtr t = bpe_tokenizer(train_bpe(std::string(64, 'a'), 260), "test");
  std::string text(300'000, 'a');
  EXPECT_EQ(t->decode(t->encode(text)), text);
}

TEST(Tokenizer, BpeFilesLoadBack) {
  fs::path dir = fs::temp_directory_path() / "basis_bpe_test";
  fs::create_directories(dir);
  BpeModel model = train_bpe(kText, 270);
  save_gpt2_bpe(model, dir);
  TokenizerPtr a = bpe_tokenizer(model, "test"), b = load_tokenizer(dir);
  EXPECT_EQ(a->encode(kText), b->encode(kText));
  save_tokenizer(*a, dir / "own.json");
  EXPECT_EQ(load_tokenizer(dir / "own.json")->hash(), a->hash());
  fs::remove_all(dir);
}

TEST(Tokenizer, MatchesHuggingFaceGpt2Splitting) {
  // Without merges the words do not show, so one merge across each border would: " a", "a'", "1a".
  std::string vocab = "{", merges;
  int id = 0;
  for (std::string s : {"a", "b", "1", "'", "s", "\u0120", "\u0120a", "aa", "1a", "a'", "'s", "\u0120\u0120"})
    vocab += (id ? ",\"" : "\"") + s + "\":" + std::to_string(id), ++id;
  vocab += "}";
  for (std::string m : {"\u0120 a", "1 a", "a '", "' s", "\u0120 \u0120"}) merges += m + "\n";
  TokenizerPtr t = parse_gpt2_bpe(vocab, merges, "v");
  EXPECT_EQ(t->encode("1a"), (Ids{2, 0}));         // digits and letters are parted
  EXPECT_EQ(t->encode("a's"), (Ids{0, 10}));       // 's is a word
  EXPECT_EQ(t->encode("a   a"), (Ids{0, 11, 6}));  // all but the last space, then " a"
}

struct Broken {
  const char* vocab;
  const char* merges;
  const char* message;
};

TEST(Tokenizer, BrokenBpeFiles) {
  const Broken cases[] = {
      {"", "", "parse error"},
      {"[]", "", "a vocabulary"},
      {"{}", "", "a vocabulary"},
      {R"({"a": -1})", "", "an id in"},
      {R"({"a": 1.5})", "", "an id in"},
      {R"({"a": 99999999})", "", "token ids below"},
      {R"({"a": 0, "b": 0})", "", "distinct token ids"},
      {R"({"a": 0})", "a", "two tokens"},
      {R"({"a": 0})", "a b c", "two tokens"},
      {R"({"a": 0})", "a b", "merges of tokens"},
      {R"({"a": 0, "b": 1})", "a b", "\"ab\" in merge 0"},
  };
  for (const Broken& c : cases) expect_bad([&] { parse_gpt2_bpe(c.vocab, c.merges, "vocab.json"); }, c.message);
  expect_bad([&] { parse_gpt2_bpe(R"({"a": 0})", "", "v")->encode("b"); }, "none for byte 0x62");
  expect_bad([&] { parse_gpt2_bpe(std::string(100'000, '['), "", "v"); }, "64 levels");
}

std::string huggingface(const std::string& extra, const std::string& pre = R"({"type":"ByteLevel"})") {
  return R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"])" + extra + R"(},"pre_tokenizer":)" +
         pre + "}";
}

TEST(Tokenizer, HuggingFaceJson) {
  TokenizerPtr t = parse_huggingface(huggingface("", R"({"type":"ByteLevel","add_prefix_space":false})"), "t");
  EXPECT_EQ(t->encode("aba"), (Ids{2, 0}));
  const Broken cases[] = {
      {R"(,"byte_fallback":true)", R"({"type":"ByteLevel"})", "without byte_fallback"},
      {R"(,"dropout":0.1)", R"({"type":"ByteLevel"})", "without dropout"},
      {"", R"({"type":"Metaspace"})", "Metaspace"},
      {"", "null", "ByteLevel"},
      {"",
       R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"},)"
       R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})",
       "regular expression"},
      {"", R"({"type":7})", "a tokenizer"},
  };
  for (const Broken& c : cases)
    expect_bad([&] { parse_huggingface(huggingface(c.vocab, c.merges), "tokenizer.json"); }, c.message);
}

fs::path shared(const std::string& name) {
  const char* root = std::getenv("BASIS_SHARED");
  return (root ? fs::path(root) : fs::path(BASIS_SOURCE_DIR) / "../shared") / name;
}

TEST(Tokenizer, SharedCheckpointsLoadBothWays) {
  fs::path dir = shared("checkpoints/gpt2");
  if (!fs::exists(dir / "tokenizer.json")) GTEST_SKIP() << "no " << dir;
  TokenizerPtr a = load_tokenizer(dir), b = load_gpt2_bpe(dir / "vocab.json", dir / "merges.txt");
  std::string text = read_file(shared("data/tinyshakespeare.txt"));
  EXPECT_EQ(a->vocab_size(), 4096);
  Ids ids = a->encode(text);
  EXPECT_EQ(ids, b->encode(text));
  EXPECT_EQ(a->decode(ids), text);
}

#endif

TEST(Tokenizer, WordPiece) {
  TokenizerPtr t = parse_wordpiece("[PAD]\n[UNK]\n[MASK]\nun\n##aff\n##able\n,\ncafe\n", true, "vocab.txt");
  EXPECT_EQ(t->encode("Unaffable, CAFÉ zzz[MASK]"), (Ids{3, 4, 5, 6, 7, 1, 2}));
  EXPECT_EQ(t->decode(Ids{3, 4, 5, 6}), "unaffable ,");
  EXPECT_EQ(t->special("[MASK]"), std::optional<uint32_t>(2));
  expect_same(*t, "Unaffable");
  expect_bad([] { parse_wordpiece("a\nb\n", true, "v"); }, "[UNK]");
  expect_bad([] { parse_wordpiece("[UNK]\na\na\n", true, "v"); }, "line 3");
}

TEST(Tokenizer, BrokenOwnFiles) {
  const std::pair<const char*, const char*> cases[] = {
      {"{}", "format"},
      {R"({"format":"basis tokenizer","version":2,"type":"byte"})", "version 1"},
      {R"({"format":"basis tokenizer","version":1,"type":"x"})", "type byte"},
      {R"({"format":"basis tokenizer","version":1})", "a tokenizer"},
      {R"({"format":"basis tokenizer","version":1,"type":"char","characters":"ba"})", "sorted"},
      {R"({"format":"basis tokenizer","version":1,"type":"char","characters":5})", "a tokenizer"},
  };
  for (const auto& [json, message] : cases) expect_bad([json = json] { parse_tokenizer(json, "t.json"); }, message);
  expect_bad([] { load_tokenizer("/nonexistent/tokenizer.json"); }, "No such file");
}

}  // namespace
}  // namespace basis::trainers
