// Several ranks: the same numbers as one rank, and what happens when one of them goes away.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "tests/support/process.h"
#include "trainers/checkpoint.h"
#include "trainers/optim/groups.h"
#include "trainers/run/run_directory.h"
#include "trainers/session.h"
#include "trainers/trainer.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
using tests::Arguments;
using Clock = std::chrono::steady_clock;

class Ranks : public testing::Test {
 protected:
  Ranks() {
    fs::create_directories(directory_);
    std::ofstream text(directory_ / "text.txt");
    for (int i = 0; i < 300; ++i) text << "the quick brown fox " << i * 7919 % 1009 << " jumps over the lazy dog\n";
  }
  ~Ranks() override { fs::remove_all(directory_); }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  // 50 steps of a tiny model in f64, 6 sequences a step: 4 ranks get 1, 2, 1 and 2 of them.
  std::string yaml(const std::string& name, const std::string& family = "gpt2") const {
    std::string file = path(name + ".yaml");
    std::ofstream(file) << "run: {name: " << name << ", out_dir: " << directory_.string() << ", device: cpu}\n"
                        << "model: {family: " << family << ", n_layer: 1, n_head: 2, d_model: 16, max_seq_len: 16}\n"
                        << "data: {train: [" << path("text.txt") << "], seq_len: 16}\n"
                        << "train: {global_batch: 6, max_steps: 50, precision: f64}\nschedule: {warmup_steps: 5}\n"
                        << "eval: {every: 25, batches: 3}\nsample: {tokens: 0}\nlog: {every: 5, tensorboard: false}\n"
                        << "checkpoint: {every: 10, keep: 5, keep_best: false}\ndist: {timeout_s: 20}\n";
    return file;
  }

  std::vector<std::vector<double>> weights(const std::string& name, int64_t step = 50) const {
    std::string file = path(name) + fmt::format("/checkpoints/step-{}.h5", step);
    CheckpointState state = read_checkpoint_state(file);
    configs::Config c = configs::parse_config(state.config, file);
    auto model = models::make_model(c.model);
    model->initialize(0, core::cpu, core::DType::f64);
    freeze(c.train, model->parameters());
    Optimizer optimizer(c.optimizer, model->parameters(), false);
    load_checkpoint(file, *model, &optimizer);
    std::vector<std::vector<double>> all;
    for (const Optimizer::Slot& s : optimizer.slots())
      for (const Tensor& t : {s.parameter.value(), s.first, s.second})
        if (t) all.push_back(t.to_vector<double>());
    return all;
  }
  double difference(const std::string& a, const std::string& b, int64_t step = 50) const {
    auto x = weights(a, step), y = weights(b, step);
    EXPECT_GT(x.size(), 10u);
    double worst = std::abs(validation_loss(a) - validation_loss(b)), moved = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(x[i].size(), y.at(i).size());
      for (size_t j = 0; j < x[i].size(); ++j) {
        if (!std::isfinite(x[i][j] - y[i].at(j))) return HUGE_VAL;
        worst = std::max(worst, std::abs(x[i][j] - y[i].at(j))), moved = std::max(moved, std::abs(x[i][j]));
      }
    }
    EXPECT_GT(moved, 0);
    return worst;
  }
  double validation_loss(const std::string& name) const {  // the last one of the run
    std::ifstream file(path(name) + "/metrics.jsonl");
    double loss = NAN;
    for (std::string line; std::getline(file, line);)
      if (size_t at = line.find("\"val_loss\":"); at != std::string::npos) loss = std::stod(line.substr(at + 11));
    EXPECT_TRUE(std::isfinite(loss)) << name;
    return loss;
  }

  void train_threads(int ranks, const std::string& name, const std::string& family, const Arguments& overrides) const {
    configs::Config c = configs::load_config(yaml(name, family), overrides);
    std::vector<CommunicatorPtr> group = thread_group(ranks, 30);
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        try {
          EXPECT_EQ(train(c, std::move(group[size_t(r)])), 0);
        } catch (const std::exception& e) {
          ADD_FAILURE() << e.what();
        }
      });
    for (std::thread& t : threads) t.join();
  }

  pid_t start(const Arguments& arguments, const Arguments& environment = {}) const {
    return tests::start_process(arguments, path("log"), environment);
  }
  static int finish(pid_t child) { return tests::finish_process(child); }
  int run(const Arguments& arguments, const Arguments& environment = {}) const {
    return finish(start(arguments, environment));
  }
  std::string log() const {
    std::ostringstream s;
    s << std::ifstream(path("log")).rdbuf();
    return s.str();
  }
  // The process of a rank, from the list of those who joined; 0 until it is there.
  pid_t process(int rank) const {
    std::string text = log(), key = fmt::format("  rank {}: ", rank);
    size_t line = text.find(key), id = text.find("process ", line);
    return line == std::string::npos || text.find('\n', line) == std::string::npos ? 0 : std::atoi(&text[id + 8]);
  }
  int64_t newest(const std::string& name) const {
    int64_t step = 0;
    for (const CheckpointFile& f : checkpoint_files(path(name))) step = std::max(step, f.step);
    return step;
  }
  void await_checkpoint(const std::string& name, pid_t run) const {
    for (int i = 0; i < 1000 && newest(name) == 0 && waitpid(run, nullptr, WNOHANG) == 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  fs::path directory_ = fs::temp_directory_path() / ("basis_ranks_test_" + std::to_string(getpid()));
};

TEST_F(Ranks, ThreadsEqualOneRank) {
  for (const char* family : {"gpt2", "bert"}) {  // bert: masked tokens, a different number on each rank
    train_threads(1, "one", family, {"train.resume=never"});
    for (int ranks : {2, 4})
      for (const char* zero : {"0", "1"})
        for (const char* micro : {"0", "1", "2"}) {  // 2: a last micro-batch of one, on some ranks
          train_threads(
              ranks, "many", family,
              {"train.resume=never", std::string("dist.zero=") + zero, std::string("train.micro_batch=") + micro});
          EXPECT_LT(difference("one", "many"), 1e-6) << family << " " << ranks << " ranks, zero " << zero;
        }
  }
}

// Buffers, frozen parts, rates of groups, clipping that binds, chunks of logits and blocks run again in backward.
TEST_F(Ranks, ThreadsEqualOneRankWhateverIsTrained) {
  const Arguments runs[] = {{"model.attention.projector={type: bd, init: converted}", "train.grad_clip=0.05"},
                            {"train.frozen=[tokens,layers/0/mlp]",
                             "optimizer.groups=[{match: \"*attention*\", lr_scale: 0.1, weight_decay: 0}]"},
                            {"model.attention.mixer={type: conv_basis, k: 4, breakpoints: learned}",
                             "train.recompute=block", "model.head_chunk=5"},
                            {"model.family=deepseek_v2", "optimizer.type=sgd", "optimizer.lr=0.1"}};
  for (Arguments overrides : runs) {
    SCOPED_TRACE(overrides[0]);
    overrides.insert(overrides.end(), {"train.resume=never", "model.n_layer=2", "train.max_steps=10", "eval.every=5"});
    train_threads(1, "one", "gpt2", overrides);
    for (const char* zero : {"0", "1"}) {
      overrides.push_back(std::string("dist.zero=") + zero);
      train_threads(4, "many", "gpt2", overrides);
      EXPECT_LT(difference("one", "many", 10), 1e-6) << "zero " << zero;
    }
  }
}

TEST_F(Ranks, ThreadsRepeatBitForBit) {
  for (const char* zero : {"0", "1"}) {
    Arguments overrides{"train.resume=never", "train.micro_batch=1", std::string("dist.zero=") + zero};
    for (const char* name : {"first", "second"}) train_threads(4, name, "bert", overrides);
    EXPECT_EQ(difference("first", "second"), 0);
  }
}

TEST_F(Ranks, ARunGoesOnWithAnotherNumberOfRanks) {
  train_threads(1, "one", "gpt2", {});
  train_threads(4, "many", "gpt2", {"train.max_steps=20", "schedule.decay_steps=50", "dist.zero=1"});
  train_threads(2, "many", "gpt2", {"train.max_steps=30", "schedule.decay_steps=50", "dist.zero=1"});
  train_threads(1, "many", "gpt2", {});
  EXPECT_LT(difference("one", "many"), 1e-6);
}

TEST_F(Ranks, ProcessesEqualOneRankAndRepeatBitForBit) {
  train_threads(1, "one", "gpt2", {});
  for (const char* name : {"first", "second"}) {
    ASSERT_EQ(run({BASIS_BINARY, "train", yaml(name), "--ranks", "2", "dist.zero=1"}), 0) << log();
    EXPECT_NE(log().find("2 ranks through tcp (started by --ranks 2)"), std::string::npos) << log();
  }
  EXPECT_LT(difference("one", "first"), 1e-6);
  EXPECT_EQ(difference("first", "second"), 0);
}

TEST_F(Ranks, MpirunEqualsOneRank) {
  if (std::system("command -v mpirun > /dev/null")) GTEST_SKIP() << "mpirun is not installed (openmpi-bin)";
#if !defined(BASIS_HAS_MPI)
  GTEST_SKIP() << "built without MPI";
#endif
  auto mpirun = [&](const char* name, const char* family, const char* ranks, const char* zero) {
    ASSERT_EQ(run({"mpirun", "--allow-run-as-root", "--oversubscribe", "-n", ranks, BASIS_BINARY, "train",
                   yaml(name, family), "train.resume=never", "train.micro_batch=1", std::string("dist.zero=") + zero}),
              0)
        << log();
    EXPECT_NE(log().find(std::string(ranks) + " ranks through mpi (started by mpirun"), std::string::npos) << log();
  };
  for (const char* family : {"gpt2", "bert"}) {
    train_threads(1, "one", family, {"train.resume=never"});
    for (const char* ranks : {"2", "4"})
      for (const char* zero : {"0", "1"}) {
        mpirun("mpi", family, ranks, zero);
        EXPECT_LT(difference("one", "mpi"), 1e-6) << family << " " << ranks << " ranks, zero " << zero;
      }
  }
  mpirun("again", "bert", "4", "1");
  EXPECT_EQ(difference("mpi", "again"), 0);
}

// A rank is killed, frozen or asked to stop at a random moment of a run of 400 steps, which then goes on where it was:
// the others leave within the time-out and name it, no checkpoint is lost, and the end equals that of a run left alone.
class Drills : public Ranks, public testing::WithParamInterface<int> {};

TEST_P(Drills, ARunSurvivesTheLossOfARank) {
  std::mt19937 random(unsigned(2026 + GetParam()));
  int signal = std::array{SIGKILL, SIGSTOP, SIGTERM}[size_t(GetParam() % 3)], victim = int(random() % 3);
  auto command = [&](const char* name) {
    return Arguments{BASIS_BINARY,
                     "train",
                     yaml(name),
                     "--ranks",
                     "3",
                     GetParam() % 2 ? "dist.zero=1" : "dist.zero=0",
                     "train.max_steps=400",
                     "checkpoint.every=20",
                     "eval.every=0",
                     "dist.timeout_s=2"};
  };
  ASSERT_EQ(run(command("whole")), 0) << log();
  int code = 0;
  double seconds = 0;
  for (int attempt = 0; attempt < 5 && code == 0; ++attempt) {  // the run may end before the signal comes
    fs::remove_all(path("drill"));
    pid_t job = start(command("drill"));
    await_checkpoint("drill", job);
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 100));
    pid_t target = process(victim);
    auto sent = Clock::now();
    if (target > 0) kill(target, signal);
    code = finish(job);
    seconds = std::chrono::duration<double>(Clock::now() - sent).count();
  }
  EXPECT_LT(seconds, 8) << log();
  if (signal == SIGTERM) {
    EXPECT_EQ(code, 128 + SIGTERM) << log();
    EXPECT_NE(log().find("checkpoint saved"), std::string::npos) << log();
  } else {
    EXPECT_EQ(code, 5) << log();
    EXPECT_NE(log().find(fmt::format("rank {}", victim)), std::string::npos) << log();
    EXPECT_NE(log().find("the last step done is "), std::string::npos) << log();
  }
  ASSERT_TRUE(newest_valid_checkpoint(path("drill"))) << log();
  ASSERT_EQ(run(command("drill")), 0) << log();
  EXPECT_EQ(difference("whole", "drill", 400), 0);
}

INSTANTIATE_TEST_SUITE_P(Twenty, Drills, testing::Range(0, 20));

}  // namespace
}  // namespace basis::trainers
