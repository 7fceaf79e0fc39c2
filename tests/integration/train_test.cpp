// The program as a user runs it: training, stopping, killing, resuming, and what it says to bad input.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/device.h"
#include "tests/support/process.h"

namespace basis {
namespace {

namespace fs = std::filesystem;
using tests::Arguments;

class Program : public testing::Test {
 protected:
  Program() {
    fs::create_directories(directory_);
    std::ofstream text(directory_ / "text.txt");
    for (int i = 0; i < 600; ++i) text << "the quick brown fox " << i * 7919 % 1009 << " jumps over the lazy dog\n";
  }
  ~Program() override { fs::remove_all(directory_); }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(directory_ / name, std::ios::binary) << content;
    return path(name);
  }

  // A tiny run; `name` is its directory.
  std::string config(const std::string& name) const {
    return write(name + ".yaml", "run: {name: " + name + ", out_dir: " + directory_.string() +
                                     ", device: cpu}\n"
                                     "model: {n_layer: 1, n_head: 2, d_model: 16, max_seq_len: 16, dropout: 0.1}\n"
                                     "data: {train: [" +
                                     path("text.txt") +
                                     "], seq_len: 16}\n"
                                     "train: {global_batch: 4, micro_batch: 2, max_steps: 60}\n"
                                     "schedule: {warmup_steps: 5}\n"
                                     "eval: {every: 20, batches: 2}\n"
                                     "sample: {tokens: 5}\ncheckpoint: {every: 10, keep: 3}\nlog: {every: 5}\n");
  }

  pid_t start(Arguments arguments) const {
    arguments.insert(arguments.begin(), BASIS_BINARY);
    return tests::start_process(arguments, path("log"));
  }
  static int finish(pid_t child) { return tests::finish_process(child); }
  int run(const Arguments& arguments) const { return finish(start(arguments)); }

  std::string log() const { return read(path("log")); }
  static std::string read(const fs::path& p) {
    std::ostringstream s;
    s << std::ifstream(p, std::ios::binary).rdbuf();
    return s.str();
  }

  // The datasets of the final checkpoint, as text without the names of files and runs.
  std::string weights(const std::string& name) const {
    std::string dump = path(name) + "/checkpoints/step-60.h5";
    EXPECT_TRUE(fs::exists(dump)) << log();
    std::string command = "h5dump -g /model -g /optimizer " + dump + " | tail -n +2 > " + path("dump") + " 2>/dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::string text = read(path("dump"));
    EXPECT_GT(text.size(), 100000u) << "h5dump printed no weights";
    return text;
  }

  fs::path directory_ = fs::temp_directory_path() / ("basis_train_test_" + std::to_string(getpid()));
};

#define REQUIRE_H5DUMP() \
  if (std::system("command -v h5dump > /dev/null")) GTEST_SKIP() << "h5dump is not installed (hdf5-tools)"

TEST_F(Program, ResumingGivesTheSameBits) {
  REQUIRE_H5DUMP();
  ASSERT_EQ(run({"train", config("whole")}), 0) << log();
  ASSERT_EQ(run({"train", config("parts"), "train.max_wall_time=0.01s"}), 0) << log();
  EXPECT_FALSE(fs::exists(path("parts") + "/checkpoints/step-60.h5"));
  std::string metrics = path("parts") + "/metrics.jsonl";
  std::ofstream(metrics, std::ios::app) << "{\"step\": 1, \"elapsed\": 1000}\n";
  ASSERT_EQ(run({"train", config("parts")}), 0) << log();
  EXPECT_NE(read(metrics).rfind("\"elapsed\":1000."), std::string::npos) << "time goes on where it stopped";
  EXPECT_NE(log().find("resuming from"), std::string::npos);
  EXPECT_EQ(weights("whole"), weights("parts"));
}

TEST_F(Program, KilledTwentyTimesEndsWithTheSameBits) {
  REQUIRE_H5DUMP();
  ASSERT_EQ(run({"train", config("whole"), "checkpoint.every=1"}), 0) << log();
  std::string yaml = config("killed");
  unsigned state = 12345;
  int kills = 0;
  for (int i = 0; i < 200 && kills < 20; ++i) {
    pid_t child = start({"train", yaml, "checkpoint.every=1"});
    state = state * 1103515245 + 12345;
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + state / 65536 % 40));
    kill(child, SIGKILL);
    if (finish(child) == 1000 + SIGKILL)
      ++kills;
    else
      fs::remove_all(path("killed"));  // it came through: begin again
  }
  EXPECT_EQ(kills, 20);
  ASSERT_EQ(run({"train", yaml, "checkpoint.every=1"}), 0) << log();
  EXPECT_EQ(weights("whole"), weights("killed"));
}

TEST_F(Program, SigtermSavesAndExitsWithItsNumber) {
  pid_t child = start({"train", config("stopped"), "train.max_steps=1000000"});
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  kill(child, SIGTERM);
  EXPECT_EQ(finish(child), 128 + SIGTERM) << log();
  EXPECT_NE(log().find("checkpoint saved"), std::string::npos);
  EXPECT_EQ(run({"eval", path("stopped")}), 0) << log();
  EXPECT_EQ(run({"eval", path("stopped"), "--batches", "1", "--approximate", "conv:k=2,8", "window:k=4", "topk:k=4"}),
            0)
      << log();
  EXPECT_EQ(run({"eval", path("stopped"), "--batches", "1", "--approximate", "conv:k="}), 2) << log();
  EXPECT_EQ(run({"eval", path("stopped"), "--batches", "1", "--approximate", "conv:k=100000"}), 2) << log();
  EXPECT_EQ(run({"generate", path("stopped"), "--tokens", "5", "--prompt", "the"}), 0) << log();
  EXPECT_EQ(run({"inspect", path("stopped")}), 0) << log();
}

TEST_F(Program, EveryFamilyAndMixerTrains) {
  for (const char* family : {"gpt2", "llama", "bert", "deepseek_v2"})
    for (const char* mixer : {"naive", "fused", "window", "check"})
      EXPECT_EQ(run({"train", config("family"), std::string("model.family=") + family,
                     std::string("model.attention.mixer.type=") + mixer, "model.attention.mixer.window=4",
                     "train.max_steps=3", "train.resume=never", "train.recompute=block"}),
                0)
          << family << " " << mixer << ": " << log();
}

TEST_F(Program, LowRankAndShiftedMixersTrainAndGenerate) {
  auto of = [](const std::string& settings) { return "model.attention.mixer={" + settings + "}"; };
  for (const char* family : {"gpt2", "llama", "bert", "deepseek_v2"})
    for (const char* mixer : {"type: low_rank", "type: low_rank, features: taylor, mask: long_lora, group: 6",
                              "type: low_rank, features: random, rank: 5", "type: long_lora, group: 6"})
      EXPECT_EQ(run({"train", config("low"), std::string("model.family=") + family, of(mixer), "model.dropout=0",
                     "train.max_steps=3", "train.resume=never", "train.recompute=block"}),
                0)
          << family << " " << mixer << ": " << log();
  for (const char* mixer : {"type: low_rank, features: random, mask: window, window: 5", "type: long_lora, group: 6"}) {
    ASSERT_EQ(run({"train", config("low"), of(mixer), "model.dropout=0", "train.max_steps=3", "train.resume=never"}), 0)
        << log();
    EXPECT_EQ(run({"generate", path("low"), "--tokens", "20", "--prompt", "the"}), 0) << log();
  }
}

TEST_F(Program, RecomputeChangesNoBit) {
  REQUIRE_H5DUMP();
  ASSERT_EQ(run({"train", config("plain")}), 0) << log();
  ASSERT_EQ(run({"train", config("recomputed"), "train.recompute=block"}), 0) << log();
  EXPECT_EQ(weights("plain"), weights("recomputed"));
}

TEST_F(Program, FrozenParametersStayAndResumeGivesTheSameBits) {
  REQUIRE_H5DUMP();
  Arguments settings{"train.frozen=[positions, layers/0/attention/*]", "train.recompute=block",
                     "optimizer.groups=[{match: '*/bias', lr_scale: 3, weight_decay: 0.1}]",
                     "data.shuffle=random_offsets"};
  auto train = [&](const std::string& name, const std::string& more) {
    Arguments arguments{"train", config(name), more};
    arguments.insert(arguments.end(), settings.begin(), settings.end());
    return run(arguments);
  };
  ASSERT_EQ(train("whole", "train.recompute=none"), 0) << log();
  ASSERT_EQ(train("parts", "train.max_wall_time=0.01s"), 0) << log();
  ASSERT_EQ(train("parts", "run.seed=1"), 0) << log();
  EXPECT_NE(log().find("resuming from"), std::string::npos);
  EXPECT_EQ(weights("whole"), weights("parts"));
  auto dataset = [&](const std::string& dataset, int step) {
    std::string file = path("whole") + "/checkpoints/step-" + std::to_string(step) + ".h5";
    EXPECT_EQ(std::system(("h5dump -y -d /model/" + dataset + " " + file + " | tail -n +2 > " + path("dump")).c_str()),
              0);
    return read(path("dump"));
  };
  EXPECT_EQ(dataset("layers/0/attention/q/weight", 40), dataset("layers/0/attention/q/weight", 60));
  EXPECT_NE(dataset("layers/0/mlp/up/weight", 40), dataset("layers/0/mlp/up/weight", 60));
  EXPECT_EQ(run({"train", config("parts"), "train.max_steps=70"}), 4) << "no moments for what was frozen";
  EXPECT_NE(log().find("train.frozen has changed"), std::string::npos) << log();
  ASSERT_EQ(run({"train", config("dry"), "--dry-run", settings[0], settings[2]}), 0) << log();
  EXPECT_NE(log().find("# train.frozen layers/0/attention/*: 8 parameters: layers/0/attention/q/weight"),
            std::string::npos)
      << log();
}

TEST_F(Program, NonFiniteLossKeepsTheLastGoodWeights) {
  EXPECT_EQ(run({"train", config("blown"), "optimizer.lr=1e30", "schedule.warmup_steps=0", "train.grad_clip=0"}), 3)
      << log();
  EXPECT_NE(log().find("first bad tensor"), std::string::npos) << log();
}

TEST_F(Program, AShardBringsItsTokenizer) {
  std::string shard = path("shard.h5"), own = "data.train=[" + shard + "]";
  ASSERT_EQ(run({"tokenize", path("text.txt"), "--tokenizer", "char", "--output", shard}), 0) << log();
  EXPECT_EQ(run({"train", config("bytes"), own}), 4) << "tokens of another tokenizer";
  EXPECT_NE(log().find("data.tokenizer=shard"), std::string::npos) << log();
  ASSERT_EQ(run({"train", config("own"), own, "data.tokenizer=shard", "sample.prompt=a"}), 0) << log();
  ASSERT_EQ(run({"generate", path("own"), "--prompt", "a", "--tokens", "3"}), 0) << log();
  ASSERT_EQ(run({"inspect", shard}), 0) << log();
  EXPECT_NE(log().find("checksum"), std::string::npos) << log();
  std::string bytes = read(shard);
  bytes[bytes.size() - 9] ^= 1;
  EXPECT_EQ(run({"inspect", write("damaged.h5", bytes)}), 4) << log();
}

#ifndef __SANITIZE_ADDRESS__  // which reserves more than the limit for itself
TEST_F(Program, RunningOutOfMemoryIsOneMessage) {
  if (core::has_backend(core::DeviceType::cuda)) GTEST_SKIP() << "CUDA's libraries alone reserve more than the limit";
  std::string limited = "ulimit -v 1500000; exec \"$0\" \"$@\"";
  pid_t child = tests::start_process(
      {"sh", "-c", limited, BASIS_BINARY, "train", config("big"), "model.n_layer=100000"}, path("log"));
  EXPECT_EQ(finish(child), 1) << log();
  EXPECT_NE(log().find("out of memory"), std::string::npos) << log();
}
#endif

TEST_F(Program, VersionListsTheFeatures) {
  ASSERT_EQ(run({"--version"}), 0);
  for (const char* word :
       {"basis ", "built with: OpenBLAS, HDF5 1", "CUDA", "NCCL", "cuDNN", "MPI", "PCRE2", "compiler: "})
    EXPECT_NE(log().find(word), std::string::npos) << word << ": " << log();
}

TEST_F(Program, BadInputHasItsExitCodeAndOneMessage) {
  std::string good = config("good");
  std::string random(5000, '\0');
  for (size_t i = 0; i < random.size(); ++i) random[i] = char(i * 2654435761u >> 13);
  std::string garbage = write("garbage.h5", random), binary = write("odd.bin", "abc"), empty = write("empty.txt", "");
  struct Case {
    Arguments arguments;
    int code;
    const char* says;
  };
  const std::string mixer = "model.attention.mixer.";
  const Case cases[] = {
      {{}, 2, "subcommand"},
      {{"trian"}, 2, ""},
      {{"train"}, 2, "config"},
      {{"train", path("absent.yaml")}, 2, "readable YAML file"},
      {{"train", directory_.string()}, 2, "config.yaml"},
      {{"train", garbage}, 4, "garbage.h5"},
      {{"train", good, "--frobnicate"}, 2, ""},
      {{"train", good, "model.n_layers=3"}, 2, "nearest: n_layer"},
      {{"train", good, "nonsense"}, 2, "key.path=value"},
      {{"train", good, "=3"}, 2, "key.path=value"},
      {{"train", good, "model.n_layer=zwei"}, 2, "whole number"},
      {{"train", good, "model.n_layer=0"}, 2, "in [1, 100000]"},
      {{"train", good, "model.n_head=3"}, 2, "divisor"},
      {{"train", good, mixer + "type=conv_basis", mixer + "k=0"}, 2, "mixer.k: expected a whole number of at least 1"},
      {{"train", good, mixer + "type=conv_basis", mixer + "k=100000"}, 2, "to model.max_seq_len"},
      {{"train", good, mixer + "type=conv_basis", mixer + "sink=1", "model.dropout=0"}, 2, "use type: window"},
      {{"train", good, mixer + "type=conv_basis", "model.dropout=0.5"}, 2, "no dropout"},
      {{"train", good, mixer + "type=conv_basis", mixer + "breakpoints=[3,1]"}, 2, "uniform"},
      {{"train", good, mixer + "type=conv_basis", "model.dropout=0", mixer + "breakpoints=given"},
       2,
       "mixer.positions"},
      {{"train", good, mixer + "type=conv_basis", "model.dropout=0", mixer + "positions=[0,4]"}, 2, "mixer.positions"},
      {{"train", good, mixer + "type=conv_basis", "model.dropout=0", mixer + "breakpoints=given",
        mixer + "positions=[0,9,4]"},
       2,
       "4 at place 2"},
      {{"train", good, mixer + "type=conv_basis", "model.dropout=0", mixer + "breakpoints=given",
        mixer + "positions=[1,4]"},
       2,
       "1 at place 0"},
      {{"train", good, mixer + "type=conv_basis", "model.dropout=0", mixer + "breakpoints=given",
        mixer + "positions=[0,100000]"},
       2,
       "max_seq_len"},
      {{"train", good, mixer + "type=conv_basis", "model.dropout=0", mixer + "breakpoints=given",
        mixer + "positions=[0,1.5]"},
       2,
       "whole"},
      {{"train", good, mixer + "type=conv_basis", mixer + "breakpoints=recover", mixer + "probe=0"}, 2, "mixer.probe"},
      {{"train", good, mixer + "type=conv_basis", mixer + "breakpoints=recover", mixer + "epsilon=1",
        "model.dropout=0"},
       2,
       "mixer.epsilon"},
      {{"train", good, mixer + "type=conv_basis", "data.seq_len=0"}, 2, "data.seq_len"},
      {{"train", good, "model.layers={0: {mixer: {type: conv_basis, k: 100000}}}"}, 2, "to model.max_seq_len"},
      {{"train", good, "model.n_kv_head=3"}, 2, "divisor"},
      {{"train", good, "model.family=gpt5"}, 2, "gpt2|llama|bert"},
      {{"train", good, "model.attention.mixer.type=window"}, 2, "window"},
      {{"train", good, "model.attention.mixer={type: low_rank, mask: window}"}, 2, "mixer.window"},
      {{"train", good, "model.attention.mixer={type: long_lora, group: 3}"}, 2, "mixer.group"},
      {{"train", good, "model.attention.mixer={type: low_rank, features: taylor, degree: 3}"}, 2, "degree"},
      {{"train", good, "model.attention.mixer.type=low_rank"}, 2, "dropout"},
      {{"train", good, "model.layers.7.mixer.type=naive"}, 2, "n_layer"},
      {{"train", good, "model.dropout=1"}, 2, "[0, 1)"},
      {{"train", good, "data.seq_len=17"}, 2, "max_seq_len"},
      {{"train", good, "data.train=" + path("none*.txt")}, 4, "none*.txt"},
      {{"train", good, "data.train=" + empty}, 4, "empty.txt"},
      {{"train", good, "data.train=" + binary}, 4, "odd.bin"},
      {{"train", good, "data.train=" + garbage}, 4, "garbage.h5"},
      {{"train", good, "data.val=1.5"}, 2, "fraction"},
      {{"train", good, "data.tokenizer=bpe"}, 2, "tokenizer_path"},
      {{"train", good, "data.tokenizer=bpe", "data.tokenizer_path=" + path("nowhere")}, 4, "nowhere"},
      {{"train", good, "model.vocab_size=10"}, 2, "vocab_size"},
      {{"train", good, "train.micro_batch=3"}, 2, "divisor"},
      {{"train", good, "train.max_wall_time=soon"}, 2, "90s"},
      {{"train", good, "train.resume=must"}, 4, "checkpoint"},
      {{"train", good, "train.init_from=" + garbage}, 4, "garbage.h5"},
      {{"train", good, "train.frozen=layer/0/*"}, 2, "matches none"},
      {{"train", good, "train.frozen='*'"}, 2, "all of them frozen"},
      {{"train", good, "optimizer.groups=[{match: nothing, lr_scale: 2}]"}, 2, "optimizer.groups[0].match"},
      {{"train", good, "data.shuffle=maybe"}, 2, "random_offsets"},
      {{"train", good, "optimizer.lr=-1"}, 2, "at least 0"},
      {{"train", good, "optimizer.betas=[0.9]"}, 2, "two numbers"},
      {{"train", good, "schedule.min_lr=1"}, 2, "optimizer.lr"},
      {{"train", good, "run.name=a/b"}, 2, "directory name"},
      {{"eval", path("absent.h5")}, 4, "absent.h5"},
      {{"eval", garbage}, 4, "garbage.h5"},
      {{"eval", directory_.string()}, 4, "checkpoint"},
      {{"generate", garbage}, 4, "garbage.h5"},
      {{"generate", garbage, "--top-p", "2"}, 2, "top-p"},
      {{"inspect", garbage}, 4, "garbage.h5"},
      {{"inspect", path("absent")}, 4, "absent"},
      {{"gradcheck", "--op", "sofmax"}, 2, "nearest: softmax"},
      {{"gradcheck", "--dtype", "f128"}, 2, "dtype"},
      {{"gradcheck", "--device", "tpu"}, 2, "device"},
      {{"bench", "everything"}, 2, ""},
      {{"bench", "step", "--batch", "0"}, 2, "batch"},
      {{"tokenize", path("absent.txt"), "--output", path("x.h5")}, 4, "absent.txt"},
      {{"tokenize", path("text.txt")}, 2, "--output"},
      {{"train", ""}, 2, "empty text"},
      {{"train", good, "data.train=''"}, 2, "empty text"},
      {{"train", good, "model.n_layer=1000000000"}, 2, "in [1, 100000]"},
      {{"train", good, "model.d_model=9223372036854775807"}, 2, "model.d_model"},
      {{"train", good, "model.d_model=1000000"}, 1, "memory"},
      {{"train", good, "train.global_batch=100000000000"}, 2, "in [1, 1073741824]"},
      {{"train", good, "train.global_batch=100000000"}, 2, "tokens a step"},
      {{"train", good, "train.precision=bf16"}, 2, "on the CPU"},
      {{"train", good, "train.precision=f8"}, 2, "f32|bf16|f16|f64"},
      {{"train", good, "optimizer.lr=.nan"}, 2, "'.nan'"},
      {{"train", good, "optimizer.betas=[.inf, 0.9]"}, 2, "'.inf'"},
      {{"train", good, "run.seed=-1"}, 2, "run.seed"},
      {{"train", good, "run.out_dir=" + path("text.txt")}, 1, "Not a directory"},
      {{"train", write("list.yaml", "[1, 2]\n")}, 2, "got a list"},
      {{"train", write("octal.yaml", "model: {n_layer: 012}\n")}, 2, "octal.yaml:1:18"},
      {{"train", write("yes.yaml", "run: {deterministic: yes}\n")}, 2, "true or false"},
      {{"train", write("twice.yaml", "model: {}\nmodel: {}\n")}, 2, "duplicate key"},
      {{"train", write("two.yaml", "--- {}\n---\n{}\n")}, 2, "second document"},
      {{"train", write("binary.yaml", "\xff\xfe")}, 2, "not UTF-8"},
      {{"train", write("deep.yaml", "a: " + std::string(5000, '['))}, 2, "deep.yaml"},
      {{"eval", garbage, "--svg", path("x.svg")}, 2, "--approximate"},
      {{"generate", garbage, "--seed", "-1"}, 2, "seed"},
      {{"convert", garbage, ""}, 2, "empty text"},
      {{"convert", garbage, path("q"), "--keep", "0.5"}, 2, "--projector low_rank"},
      {{"convert", garbage, path("q"), "--layers", "0"}, 2, "--projector bd"},
      {{"tokenize", path("text.txt"), "--output", path("text.txt")}, 2, "another file"},
      {{"tokenize", empty, "--output", path("x.h5")}, 4, "nothing to tokenize"},
      {{"tokenize", path("text.txt"), "--vocab-size", "500", "--output", path("x.h5")}, 2, "--train-bpe"},
      {{"tokenize", path("text.txt"), "--output", path("no/such/x.h5")}, 1, "No such file or directory"},
      {{"tokenize", path("text.txt"), "--tokenizer", path("nowhere"), "--output", path("x.h5")}, 4, "nowhere"},
  };
  for (const Case& c : cases) {
    std::string line;
    for (const auto& a : c.arguments) line += " " + a;
    EXPECT_EQ(run(c.arguments), c.code) << line << ": " << log();
    EXPECT_NE(log().find(c.says), std::string::npos) << line << ": " << log();
  }
}

}  // namespace
}  // namespace basis
