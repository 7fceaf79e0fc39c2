// The directory of one training run, owned by one process at a time:
//   config.yaml                resolved configuration
//   metrics.jsonl              one JSON object a line
//   events.out.tfevents.*      TensorBoard
//   loss.svg                   the loss curve
//   samples/step-N.txt         generated text
//   checkpoints/step-N.h5
//   .lock                      flock'ed while a process trains here; holds its process id
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace basis::trainers {

class RunDirectory {
 public:
  // Creates the directory with its parents and subdirectories, takes the lock, and removes the half-written files of
  // processes that died. Throws core::Error: another process trains here (its id is named), or the directory cannot be
  // created or written.
  explicit RunDirectory(std::filesystem::path path);
  ~RunDirectory();
  RunDirectory(RunDirectory&&) noexcept;
  RunDirectory& operator=(RunDirectory&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.yaml"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path loss_svg() const { return path_ / "loss.svg"; }
  std::filesystem::path samples() const { return path_ / "samples"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path checkpoint(int64_t step) const;

  void write_config(std::string_view yaml) const;
  std::filesystem::path write_sample(int64_t step, std::string_view text) const;  // the file's path

 private:
  std::filesystem::path path_;
  int lock_ = -1;  // descriptor
};

struct CheckpointFile {
  int64_t step;
  std::filesystem::path path;
};

// The files checkpoints/step-N.h5 of a run directory, newest (largest N) first; empty if there are none. Takes no lock
// and says nothing about whether the files are valid.
std::vector<CheckpointFile> checkpoint_files(const std::filesystem::path& run_directory);

}  // namespace basis::trainers
