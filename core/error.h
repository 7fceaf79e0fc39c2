// The one exception type of Basis, and the process exit codes it maps to (README, "Exit codes").
#pragma once

#include <stdexcept>
#include <string>

namespace basis::core {

// The process exit status. Stopped by signal n after saving: 128 + n.
enum class ExitCode : int {
  ok = 0,
  runtime = 1,    // a failure while running: out of memory, a CUDA error, a full disk
  usage = 2,      // command line or configuration
  nonfinite = 3,  // the loss or a gradient became NaN or infinite
  bad_file = 4,   // a checkpoint, shard, tokenizer or text file that cannot be used
  rank_lost = 5,  // a process of a distributed run went away
  mismatch = 6,   // gradcheck or verification found a difference
};

// What an error says: where, what was expected, what came instead, and what the user can do about it.
// Empty fields are left out of the message.
struct Fault {
  std::string where;     // op, file or key: "softmax", "model.h5", "config.yaml:3:7"
  std::string expected;  // "axis in [-2, 2)"
  std::string got;       // "5"
  std::string remedy;    // "pass axis: -1 for the last dimension"
  ExitCode code = ExitCode::runtime;
};

// Library code throws this and nothing else, and never exits; `main` turns it into a message and an exit code.
class Error : public std::runtime_error {
 public:
  explicit Error(Fault fault) : std::runtime_error(message(fault)), fault_(std::move(fault)) {}
  const Fault& fault() const { return fault_; }
  ExitCode code() const { return fault_.code; }

 private:
  static std::string message(const Fault& f) {
    std::string text = f.where;
    if (!f.expected.empty()) text += ": expected " + f.expected;
    if (!f.got.empty()) text += (f.expected.empty() ? ": " : ", got ") + f.got;
    if (!f.remedy.empty()) text += " (" + f.remedy + ")";
    return text;
  }
  Fault fault_;
};

}  // namespace basis::core
