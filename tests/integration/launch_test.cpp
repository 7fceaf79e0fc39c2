// How ranks are started and lost, seen from every rank: its exit code, what it says, and how long it takes.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "tests/support/process.h"
#include "trainers/comm/launch.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
using tests::Arguments;
using Clock = std::chrono::steady_clock;

class Launching : public testing::Test {
 protected:
  Launching() {
    fs::create_directories(directory_);
    std::ofstream text(directory_ / "text.txt");
    for (int i = 0; i < 300; ++i) text << "the quick brown fox " << i * 7919 % 1009 << " jumps over the lazy dog\n";
    std::ofstream(directory_ / "run.yaml")
        << "run: {name: run, out_dir: " << directory_.string() << ", device: cpu}\n"
        << "model: {family: gpt2, n_layer: 1, n_head: 2, d_model: 16, max_seq_len: 16}\n"
        << "data: {train: [" << (directory_ / "text.txt").string() << "], seq_len: 16}\n"
        << "train: {global_batch: 6, max_steps: 20, precision: f64}\neval: {every: 0, batches: 1}\n"
        << "sample: {tokens: 0}\nlog: {every: 5, tensorboard: false}\ncheckpoint: {every: 10, keep_best: false}\n"
        << "dist: {timeout_s: 3}\n";
  }
  ~Launching() override {
    for (pid_t p : ranks_) kill(p, SIGKILL);
    fs::remove_all(directory_);
  }

  std::string log_file(size_t rank) const { return (directory_ / fmt::format("log.{}", rank)).string(); }
  std::string log(size_t rank) const {
    std::ostringstream s;
    s << std::ifstream(log_file(rank)).rdbuf();
    return s.str();
  }
  Arguments train(const Arguments& overrides = {}) const {
    Arguments a{BASIS_BINARY, "train", (directory_ / "run.yaml").string()};
    a.insert(a.end(), overrides.begin(), overrides.end());
    return a;
  }
  void start(const Arguments& arguments, const Arguments& environment) {
    fs::remove(log_file(ranks_.size()));  // else await() may read what an earlier one said
    ranks_.push_back(tests::start_process(arguments, log_file(ranks_.size()), environment));
    began_ = Clock::now();
  }
  // The exit codes of all that were started, in order.
  std::vector<int> finish() {
    std::vector<int> codes;
    for (pid_t p : ranks_) codes.push_back(tests::finish_process(p));
    ranks_.clear();
    seconds_ = std::chrono::duration<double>(Clock::now() - began_).count();
    return codes;
  }
  int run(const Arguments& arguments, const Arguments& environment = {}) {
    start(arguments, environment);
    return finish()[0];
  }
  static Arguments rank(int rank, int size, int port, const std::string& master = "127.0.0.1") {
    return {fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", size), fmt::format("LOCAL_RANK={}", rank),
            "MASTER_ADDR=" + master, fmt::format("MASTER_PORT={}", port)};
  }
  // One line that says "error: ", with `text` in it.
  void expect_error(size_t rank, const std::string& text) const {
    std::string all = log(rank);
    size_t first = all.find("error: ");
    ASSERT_NE(first, std::string::npos) << "rank " << rank << " says: " << all;
    EXPECT_EQ(all.find("error: ", first + 1), std::string::npos) << all;
    EXPECT_NE(all.find(text, first), std::string::npos) << "'" << text << "' from rank " << rank << " in: " << all;
  }
  void await(const std::string& text, size_t rank) const {
    for (int i = 0; i < 500 && log(rank).find(text) == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  fs::path directory_ = fs::temp_directory_path() / ("basis_launch_test_" + std::to_string(getpid()));
  std::vector<pid_t> ranks_;
  Clock::time_point began_;
  double seconds_ = 0;
};

TEST_F(Launching, WrongEnvironmentsAreNamed) {
  struct Case {
    Arguments environment;
    int code;
    const char* says;
  };
  const std::string host = "MASTER_ADDR=127.0.0.1";
  const Case cases[] = {
      {{"RANK=0", "WORLD_SIZE=2", "LOCAL_RANK=0", host}, 2, "MASTER_PORT"},
      {{"RANK=0", "WORLD_SIZE=2", "LOCAL_RANK=0", "MASTER_PORT=1"}, 2, "MASTER_ADDR"},
      {{"RANK=0", "WORLD_SIZE=2", "LOCAL_RANK=0", host, "MASTER_PORT=99999"}, 2, "[1, 65534]"},
      {{"RANK=0", "WORLD_SIZE=2", "LOCAL_RANK=0", host, "MASTER_PORT=http"}, 2, "MASTER_PORT"},
      {{"RANK=0", "LOCAL_RANK=0"}, 2, "WORLD_SIZE"},
      {{"RANK=0", "WORLD_SIZE=2"}, 2, "LOCAL_RANK"},
      {{"WORLD_SIZE=2"}, 2, "RANK"},
      {{"RANK=2", "WORLD_SIZE=2", "LOCAL_RANK=0"}, 2, "below WORLD_SIZE"},
      {{"RANK=-1", "WORLD_SIZE=2", "LOCAL_RANK=0"}, 2, "at least 0"},
      {{"RANK=one", "WORLD_SIZE=2", "LOCAL_RANK=0"}, 2, "whole number"},
      {{"OMPI_COMM_WORLD_RANK=0"}, 2, "OMPI_COMM_WORLD_SIZE"},
      {{"PMI_RANK=0", "PMI_SIZE=2"}, 2, "MPI_LOCALRANKID"},
      {{"SLURM_STEP_ID=0", "SLURM_PROCID=0", "SLURM_LOCALID=0"}, 2, "SLURM_NTASKS"},
      {{"SLURM_STEP_ID=0", "SLURM_PROCID=0", "SLURM_LOCALID=0", "SLURM_NTASKS=2", "SLURM_NNODES=2"}, 2, "MASTER_ADDR"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(run(train(), c.environment), c.code) << c.says << ": " << log(0);
    expect_error(0, c.says);
  }
}

TEST_F(Launching, TheEnvironmentIsReadInOrder) {
  auto launch = [](std::vector<std::pair<std::string, const char*>> variables) {
    return find_launch([=](const char* name) -> const char* {
      for (const auto& [key, value] : variables)
        if (key == name) return value;
      return nullptr;
    });
  };
  std::vector<std::pair<std::string, const char*>> all{
      {"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "4"}, {"SLURM_LOCALID", "1"},
      {"SLURM_NNODES", "1"},  {"PMI_RANK", "3"},     {"PMI_SIZE", "4"}};
  Launch slurm = launch(all);  // srun --mpi=pmi2 sets PMI's variables, but starts no MPI ranks
  EXPECT_EQ(slurm.by, "srun (SLURM)");
  EXPECT_EQ(std::tuple(slurm.rank, slurm.size, slurm.local_rank, slurm.mpi), std::tuple(3, 4, 1, false));
  EXPECT_EQ(slurm.master, "127.0.0.1");
  all.push_back({"MPI_LOCALRANKID", "0"});
  EXPECT_EQ(launch(all).by, "mpiexec (MPICH)");
  all.insert(all.end(),
             {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}});
  EXPECT_EQ(launch(all).by, "mpirun (Open MPI)");
  all.insert(all.end(),
             {{"RANK", "2"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "0"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "29500"}});
  Launch torchrun = launch(all);
  EXPECT_EQ(torchrun.by, "torchrun's environment");
  EXPECT_EQ(std::tuple(torchrun.rank, torchrun.size, torchrun.mpi, torchrun.port), std::tuple(2, 8, false, 29500));
  all.push_back({"TORCHELASTIC_USE_AGENT_STORE", "True"});
  EXPECT_EQ(launch(all).port, 29501);
  EXPECT_EQ(launch({}).size, 1);
}

// What NCCL's ranks do over their control channel when a collective fails: whoever is left learns who is not.
TEST_F(Launching, TheRollIsCalled) {
  auto with_ranks = [](int port, const std::function<void(Communicator&, int)>& f) {
    std::vector<std::thread> threads;
    for (int r = 0; r < 4; ++r)
      threads.emplace_back([=] {
        Launch launch{.rank = r, .size = 4, .local_rank = r, .master = "127.0.0.1", .port = port};
        try {
          f(*tcp_communicator(launch, 20), r);
        } catch (const std::exception& e) {
          ADD_FAILURE() << "rank " << r << ": " << e.what();
        }
      });
    for (std::thread& t : threads) t.join();
  };
  for (int silent : {0, 2})  // frozen: it answers nobody
    with_ranks(29700 + silent, [silent](Communicator& c, int r) {
      if (r == silent) return std::this_thread::sleep_for(std::chrono::seconds(2));
      EXPECT_EQ(c.gone(), "");
      EXPECT_EQ(c.absent(r == 0 ? 0.5 : 1), fmt::format("rank {}", silent)) << r;
    });
  with_ranks(29711, [](Communicator& c, int r) {  // ended: rank 0 sees it at once, whoever asks
    if (r == 2) return;
    auto began = Clock::now();
    while (r == 0 && c.gone().empty()) std::this_thread::yield();
    EXPECT_EQ(c.absent(10), "rank 2") << r;
    EXPECT_LT(Clock::now() - began, std::chrono::seconds(5));
  });
  with_ranks(29712, [](Communicator& c, int r) {  // all are there, one in the middle of another operation
    if (r == 3) {
      try {
        c.barrier();
        ADD_FAILURE() << "a barrier without the others";
      } catch (const core::Error& e) {
        EXPECT_NE(std::string(e.what()).find("rank 3"), std::string::npos) << e.what();
      }
      return;
    }
    EXPECT_EQ(c.absent(r == 0 ? 0.5 : 1), "rank 3") << r;
  });
}

// Every rank leaves in time with a code that is not 0, and says why.
TEST_F(Launching, WrongGroupsEndOnEveryRank) {
  auto expect_all = [&](const std::vector<int>& codes, const std::vector<std::string>& texts) {
    EXPECT_EQ(finish(), codes) << log(0) << log(1);
    for (size_t r = 0; r < texts.size(); ++r) expect_error(r, texts[r]);
    EXPECT_LT(seconds_, 7);
  };
  auto start_ranks = [&](std::initializer_list<int> ranks, int size, int port, const Arguments& overrides = {},
                         const std::string& master = "127.0.0.1") {
    for (int r : ranks) start(train(overrides), rank(r, size, port, master));
  };
  start_ranks({0, 1, 1}, 3, 29632);
  expect_all({2, 2, 2}, {"rank 1 of 3 twice", "rank 1 of 3 twice", "rank 1 of 3 twice"});
  start_ranks({0}, 2, 29633), start_ranks({1}, 3, 29633);
  expect_all({2, 2}, {"got rank 1 of 3", "got rank 1 of 3"});
  start_ranks({0, 1}, 4, 29634);
  expect_all({5, 5}, {"none from rank 2, 3", "none from rank 2, 3"});
  start_ranks({1, 2}, 3, 29635);
  expect_all({5, 5}, {"rank 0 to listen", "rank 0 to listen"});
  start_ranks({0, 1}, 2, 29636, {}, "no.such.host.invalid");
  expect_all({2, 2}, {"MASTER_ADDR", "MASTER_ADDR"});
  start_ranks({0, 1}, 2, 29637, {"dist.backend=mpi"});
  expect_all({2, 2}, {"start by mpirun", "start by mpirun"});
  start_ranks({0, 1}, 2, 29638, {"data.train=[/no/such/file]"});
  expect_all({4, 4}, {"/no/such/file", "/no/such/file"});
  start_ranks({0, 1}, 2, 29639, {"train.global_batch=1"});
  expect_all({2, 2}, {"one sequence for each of 2 ranks", "one sequence for each of 2 ranks"});
  start_ranks({0}, 2, 29640), start_ranks({1}, 2, 29640, {"data.train=[/no/such/file]"});
  expect_all({5, 4}, {"rank 1 closed its connection", "/no/such/file"});
  start_ranks({0}, 2, 29641, {"run.out_dir=/proc/none"}), start_ranks({1}, 2, 29641);
  expect_all({1, 5}, {"/proc/none", "rank 0 closed its connection"});
}

TEST_F(Launching, APortInUseIsNamed) {
  for (bool answers : {false, true}) {
    int holder = ::socket(AF_INET, SOCK_STREAM, 0), port = 29650 + answers;
    sockaddr_in address = {};
    address.sin_family = AF_INET, address.sin_port = htons(uint16_t(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(holder, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(holder, 4), 0);
    for (int r : {0, 1}) start(train(), rank(r, 2, port));
    if (answers) {
      int guest = ::accept(holder, nullptr, nullptr);
      EXPECT_GT(::send(guest, "HTTP/1.1 400 Bad Request\r\n\r\n", 28, MSG_NOSIGNAL), 0);
      EXPECT_EQ(finish(), (std::vector{2, 5}));
      ::close(guest);
    } else {
      EXPECT_EQ(finish(), (std::vector{2, 5}));
    }
    EXPECT_LT(seconds_, 7);
    expect_error(0, "choose another MASTER_PORT");
    expect_error(1, answers ? "something else answers" : "rank 0 did not answer in time");
    ::close(holder);
  }
}

TEST_F(Launching, MoreRanksThanGpus) {
  if (core::device_count(core::DeviceType::cuda) > 60) GTEST_SKIP() << "that many GPUs";
  EXPECT_EQ(run(train({"--gpus", "64"})), 2);
  expect_error(0, "the GPUs of this host");
  if (core::device_count(core::DeviceType::cuda) > 1) return;
  for (const char* key : {"run.device=cuda", "dist.backend=nccl"}) {
    for (int r : {0, 1}) start(train({"run.device=auto", key}), rank(r, 2, 29660));
    EXPECT_EQ(finish(), (std::vector{2, 2}));
    for (size_t r : {0, 1}) expect_error(r, "a GPU for every rank");
  }
}

// Where a rank is killed or frozen, each of the others leaves with exit 5, names it, and says how far it came.
TEST_F(Launching, EveryRankNamesTheLostOne) {
  int port = 29670;
  for (int signal : {SIGKILL, SIGSTOP})
    for (size_t victim : {0, 1, 2}) {
      fs::remove_all(directory_ / "run");
      for (int r : {0, 1, 2}) start(train({"train.max_steps=1000000", "checkpoint.every=0"}), rank(r, 3, port));
      ++port;
      await("step 10/", 0);
      std::vector<pid_t> processes = ranks_;
      kill(processes[victim], signal);
      began_ = Clock::now();
      std::vector<int> codes(3);
      for (size_t r : {0, 1, 2})
        if (r != victim) codes[r] = tests::finish_process(processes[r]);
      seconds_ = std::chrono::duration<double>(Clock::now() - began_).count();
      kill(processes[victim], SIGKILL);
      tests::finish_process(processes[victim]);
      ranks_.clear();
      EXPECT_LT(seconds_, 7);
      for (size_t r : {0, 1, 2}) {
        if (r == victim) continue;
        SCOPED_TRACE(fmt::format("signal {} on rank {}", signal, victim));
        EXPECT_EQ(codes[r], 5);
        expect_error(r,
                     fmt::format("rank {} {}", victim, signal == SIGKILL ? "closed its connection" : "did not answer"));
        expect_error(r, "the last step done is ");
      }
    }
}

// The launcher's own time-out: a rank that freezes is ended, and so is the run.
TEST_F(Launching, MpirunNamesAFrozenRank) {
  if (std::system("command -v mpirun > /dev/null")) GTEST_SKIP() << "mpirun is not installed (openmpi-bin)";
#if !defined(BASIS_HAS_MPI)
  GTEST_SKIP() << "built without MPI";
#endif
  Arguments job{"mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3"};
  for (const std::string& a : train({"train.max_steps=1000000", "checkpoint.every=0"})) job.push_back(a);
  start(job, {});
  await("step 10/", 0);
  std::string all = log(0);
  size_t line = all.find("  rank 1: ");
  ASSERT_NE(line, std::string::npos) << all;
  pid_t frozen = std::atoi(&all[all.find("process ", line) + 8]);
  ASSERT_GT(frozen, 1) << all;
  kill(frozen, SIGSTOP);
  began_ = Clock::now();
  EXPECT_EQ(finish(), std::vector{5}) << log(0);
  kill(frozen, SIGKILL);
  EXPECT_LT(seconds_, 10);
  EXPECT_NE(log(0).find("got rank 1 did not answer within 3 s; the last step done is "), std::string::npos) << log(0);
}

TEST_F(Launching, MpiThatDoesNotKnowTheRanksIsRefused) {
#if !defined(BASIS_HAS_MPI)
  GTEST_SKIP() << "built without MPI";
#endif
  EXPECT_EQ(run(train(), {"PMI_RANK=1", "PMI_SIZE=2", "MPI_LOCALRANKID=1", "OMPI_ALLOW_RUN_AS_ROOT=1",
                          "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"}),
            2)
      << log(0);
  expect_error(0, "MPI to say rank 1 of 2");
}

TEST_F(Launching, TorchrunStartsRanks) {
  if (std::system("command -v torchrun > /dev/null")) GTEST_SKIP() << "torchrun is not installed";
  Arguments job{"torchrun", "--no-python", "--nproc-per-node", "2", "--master-port", "29690"};
  for (const std::string& a : train()) job.push_back(a);
  EXPECT_EQ(run(job), 0) << log(0);
  EXPECT_NE(log(0).find("2 ranks through tcp (started by torchrun's environment)"), std::string::npos) << log(0);
  job.push_back("data.train=[/no/such/file]");
  EXPECT_NE(run(job), 0);
}

}  // namespace
}  // namespace basis::trainers
