// Starts the ranks of one host as copies of this program and watches over them.
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "core/device.h"
#include "core/log.h"
#include "trainers/comm/launch.h"
#include "trainers/comm/socket.h"

namespace basis::trainers {
namespace {

volatile sig_atomic_t passed_on = 0;
extern "C" void pass_on(int number) { passed_on = number; }

std::vector<std::string> own_arguments() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> arguments;
  for (std::string a; std::getline(file, a, '\0');) arguments.push_back(a);
  return arguments;
}

void become_rank(int rank, int count, bool gpus, const Socket& listener) {
  ::setpgid(0, 0);  // Ctrl-C reaches the parent, which passes it on once
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  auto set = [](const char* name, const std::string& value) { setenv(name, value.c_str(), 1); };
  set("RANK", std::to_string(rank)), set("LOCAL_RANK", std::to_string(rank));
  set("WORLD_SIZE", std::to_string(count));
  set("MASTER_ADDR", "127.0.0.1"), set("MASTER_PORT", std::to_string(listener.port()));
  set("BASIS_LAUNCHED", fmt::format("--{} {}", gpus ? "gpus" : "ranks", count));
  unsetenv("TORCHELASTIC_USE_AGENT_STORE");
  if (!gpus && !std::getenv("OMP_NUM_THREADS"))
    set("OMP_NUM_THREADS", std::to_string(std::max(1u, std::thread::hardware_concurrency() / unsigned(count))));
  if (rank == 0) set("BASIS_LISTENER", std::to_string(::dup(listener.descriptor())));  // survives exec
  std::vector<std::string> arguments = own_arguments();
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  ::execv("/proc/self/exe", argv.data());
  ::_exit(127);
}

}  // namespace

bool is_local_rank() { return std::getenv("BASIS_LAUNCHED") != nullptr; }

int run_local_ranks(int count, bool gpus, double timeout_s) {
  if (int have = gpus ? core::device_count(core::DeviceType::cuda) : count; have < count)
    throw core::Error({.where = "--gpus",
                       .expected = fmt::format("at most {}, the GPUs of this host", have),
                       .got = std::to_string(count),
                       .remedy = have ? "" : "see basis doctor; --ranks N trains on the CPU",
                       .code = core::ExitCode::usage});
  struct sigaction action = {};
  action.sa_handler = pass_on;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  Socket listener = Socket::listen("127.0.0.1", 0);
  std::vector<pid_t> ranks;
  for (int r = 0; r < count; ++r) {
    pid_t child = ::fork();
    if (child == 0) become_rank(r, count, gpus, listener);
    if (child < 0) {
      for (pid_t p : ranks) ::kill(p, SIGKILL);
      throw core::Error({.where = "--ranks", .expected = "a new process", .got = std::strerror(errno)});
    }
    ranks.push_back(child);
  }
  listener = Socket();  // rank 0 has it
  int left = count, code = 0, stopped_by = 0;
  Deadline end = Deadline::max();  // set when the first rank has ended
  while (left > 0) {
    if (int signal = passed_on) {
      passed_on = 0, stopped_by = signal;
      for (pid_t p : ranks)
        if (p) ::kill(p, signal);
    }
    int status = 0;
    pid_t ended = ::waitpid(-1, &status, WNOHANG);
    if (ended <= 0) {
      if (std::chrono::steady_clock::now() > end)
        for (pid_t p : ranks)
          if (p) ::kill(p, SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      continue;
    }
    for (size_t r = 0; r < ranks.size(); ++r) {
      if (ranks[r] != ended) continue;
      ranks[r] = 0, --left;
      int own = WIFEXITED(status) ? WEXITSTATUS(status) : int(core::ExitCode::rank_lost);
      bool asked = WIFSIGNALED(status) && WTERMSIG(status) == stopped_by;  // before there was anything to save
      if (asked) own = 128 + stopped_by;
      if (WIFSIGNALED(status) && !asked) core::log_warning("rank {} was ended by signal {}", r, WTERMSIG(status));
      end = std::min(end, after(timeout_s + 2));
      if (own == 0) continue;
      if (code == 0 || code == int(core::ExitCode::rank_lost)) code = own;  // what it was, rather than who noticed
    }
  }
  return code;
}

}  // namespace basis::trainers
