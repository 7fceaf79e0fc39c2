// metrics.jsonl: one JSON object a line, in the order of the run. Every record has an integer "step"; a training record
// adds loss (nats per token), lr, grad_norm, tokens (since step 0), tokens_per_s and elapsed (seconds of training,
// those of earlier parts of the run included), an evaluation val_loss, val_accuracy and elapsed. Non-finite numbers are
// null.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

namespace basis::trainers {

using Record = nlohmann::ordered_json;  // keys stay in the order they were written

// The records of a metrics file, without lines that are no JSON object with an integer "step" (the last line of a
// killed process may be torn). Empty if there is no file; throws core::Error if it cannot be read.
std::vector<Record> read_metrics(const std::filesystem::path& file);

class MetricsLog {
 public:
  // Keeps the records up to and including `last_step`, the step that training continues from, and drops the rest, which
  // will be written again; -1 for a run that starts anew. Creates the file. Throws core::Error.
  explicit MetricsLog(std::filesystem::path file, int64_t last_step = -1);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // Appends one line in one write, so that a reader sees whole lines. Throws core::Error (no "step", a full disk).
  void append(const Record& record);

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace basis::trainers
