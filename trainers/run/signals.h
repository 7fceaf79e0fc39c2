// SIGINT and SIGTERM as a flag that the training loop reads between steps.
#pragma once

#include <csignal>

namespace basis::trainers {

// While alive, the first SIGINT or SIGTERM is only noted (with a line on stderr); the loop then saves and exits with
// 128 + signal. A second one ends the process at once with that status. Restores the previous handlers. One at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int caught() const;  // the signal's number; 0: none came

 private:
  struct sigaction old_int_, old_term_;
};

}  // namespace basis::trainers
