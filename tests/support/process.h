// A program run as a user runs it, its output appended to a log.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace basis::tests {

using Arguments = std::vector<std::string>;

// Starts arguments[0] (looked up in PATH) with `environment` ("NAME=value") on top of ours and one thread a process.
inline pid_t start_process(const Arguments& arguments, const std::string& log, const Arguments& environment = {}) {
  pid_t child = fork();
  if (child == 0) {
    int file = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    dup2(file, 1), dup2(file, 2);
    setenv("OMP_NUM_THREADS", "1", 1);
    for (const std::string& e : environment) putenv(const_cast<char*>(e.c_str()));
    std::vector<char*> argv;
    for (const auto& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  return child;
}

// The exit code, or 1000 + signal.
inline int finish_process(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace basis::tests
