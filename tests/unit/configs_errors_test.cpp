// Broken configs: each gives exit code 2 and names the place and what was expected.
#include <gtest/gtest.h>

#include "configs/train_config.h"
#include "core/error.h"

namespace basis::configs {
namespace {

struct Case {
  const char* what;
  std::string yaml;
  const char* place;  // file:line:column
  const char* says;
};

std::string deep(int levels) {
  std::string s = "run: ";
  for (int i = 0; i < levels; ++i) s += "{a: ";
  return s;
}

std::vector<Case> cases() {
  return {
      {"duplicate key", "run:\n  seed: 1\n  seed: 2\n", "c.yaml:3:3", "seed"},
      {"duplicate section", "run: {seed: 1}\nrun: {seed: 2}\n", "c.yaml:2:1", "run"},
      {"merge key", "run: &a {seed: 1}\ntrain:\n  <<: *a\n", "c.yaml:3:3", "<<"},
      {"octal", "train: {max_steps: 012}\n", "c.yaml:1:20", "whole number"},
      {"yes for a boolean", "run: {deterministic: yes}\n", "c.yaml:1:22", "true"},
      {"second document", "run: {seed: 1}\n---\nrun: {seed: 2}\n", "c.yaml:", "document"},
      {"too deep", deep(2000), "c.yaml:", "deep"},
      {"tab indentation", "run:\n\tseed: 1\n", "c.yaml:2:", ""},
      {"unclosed brace", "run: {seed: 1\n", "c.yaml:", ""},
      {"unclosed quote", "run: {name: \"a}\n", "c.yaml:", ""},
      {"unknown section", "modle: {n_layer: 2}\n", "c.yaml:1:1", "nearest: model"},
      {"unknown key", "model: {n_layers: 2}\n", "c.yaml:1:9", "nearest: n_layer"},
      {"unknown nested key", "model:\n  attention:\n    mixer: {typ: fused}\n", "c.yaml:3:13", "nearest: type"},
      {"list for a section", "model: [1, 2]\n", "c.yaml:1:8", "keys"},
      {"number for a section", "model: 3\n", "c.yaml:1:8", "keys"},
      {"section for a number", "train: {max_steps: {a: 1}}\n", "c.yaml:1:20", "whole number"},
      {"fraction for an integer", "train: {max_steps: 1.5}\n", "c.yaml:1:20", "whole number"},
      {"number too large", "train: {max_steps: 99999999999999999999}\n", "c.yaml:1:20", ""},
      {"infinite", "optimizer: {lr: .inf}\n", "c.yaml:1:17", ""},
      {"not a number", "optimizer: {lr: .nan}\n", "c.yaml:1:17", ""},
      {"word for a number", "optimizer: {lr: fast}\n", "c.yaml:1:17", "number"},
      {"out of range", "optimizer: {weight_decay: -0.1}\n", "c.yaml:1:27", "at least 0"},
      {"not a choice", "schedule: {type: cosin}\n", "c.yaml:1:18", "cosine"},
      {"three betas", "optimizer: {betas: [0.9, 0.99, 0.999]}\n", "c.yaml:1:20", "two numbers"},
      {"layer that is no number", "model:\n  layers: {first: {mixer: {type: naive}}}\n", "c.yaml:2:12", "layer"},
      {"alias of nothing", "run: {name: *absent}\n", "c.yaml:", ""},
      {"two errors at once", "run: {sed: 1}\nmodel: {n_layer: 0}\n", "c.yaml:1:7", "c.yaml:2:18"},
      {"not UTF-8", "run: {name: \"\xff\xfe\"}\n", "c.yaml:", ""},
      {"zero byte", std::string("run: {name: \"a\0b\"}\n", 19), "c.yaml:", ""},
      {"a tag", "run: {seed: !!str 1}\n", "c.yaml:", ""},
      {"a list at the top", "- run\n- model\n", "c.yaml:1:1", "keys"},
      {"plain text", "hello\n", "c.yaml:1:1", "keys"},
  };
}

TEST(ConfigErrors, NameThePlaceAndWhatWasExpected) {
  for (const Case& c : cases()) {
    try {
      parse_config(c.yaml, "c.yaml");
      ADD_FAILURE() << c.what << ": accepted";
    } catch (const core::Error& e) {
      std::string message = e.what();
      EXPECT_EQ(e.code(), core::ExitCode::usage) << c.what;
      EXPECT_NE(message.find(c.place), std::string::npos) << c.what << ": " << message;
      EXPECT_NE(message.find(c.says), std::string::npos) << c.what << ": " << message;
    }
  }
}

}  // namespace
}  // namespace basis::configs
