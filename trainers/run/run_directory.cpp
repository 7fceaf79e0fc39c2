#include "trainers/run/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "trainers/run/files.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw os_error(path, "create the directory", error.value());
  if (!fs::is_directory(path, error)) throw os_error(path, "use it as the run directory", ENOTDIR);
}

std::string read_pid(int descriptor) {
  char text[32] = {};
  ssize_t n = ::pread(descriptor, text, sizeof text - 1, 0);
  std::string pid(text, n > 0 ? size_t(n) : 0);
  pid.erase(pid.find_last_not_of(" \n") + 1);
  return pid;
}

int take_lock(const fs::path& directory) {
  fs::path file = directory / ".lock";
  int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) throw os_error(file, "create the lock file", errno);
  // ENOLCK and EOPNOTSUPP: a file system without locks; the run goes on unprotected.
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno != ENOLCK && errno != EOPNOTSUPP) {
    int code = errno;
    std::string pid = read_pid(fd);
    ::close(fd);
    if (code != EWOULDBLOCK) throw os_error(file, "lock it", code);
    throw core::Error({.where = directory.string(),
                       .expected = "a run directory that no process is training in",
                       .got = pid.empty() ? "one in use by another process" : "one in use by process " + pid,
                       .remedy = "wait for it, stop it, or set run.out_dir to another directory"});
  }
  try {
    if (::ftruncate(fd, 0) != 0) throw os_error(file, "truncate it", errno);
    write_all(fd, std::to_string(::getpid()) + "\n", file);
  } catch (...) {
    ::close(fd);
    throw;
  }
  return fd;
}

void remove_half_written(const fs::path& directory) {
  std::error_code ignored;
  std::vector<fs::path> stale;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    if (is_temporary(entry.path())) stale.push_back(entry.path());
  }
  for (const fs::path& file : stale) fs::remove(file, ignored);
}

// N of "step-N.h5", or nothing.
std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view prefix = "step-", suffix = ".h5";
  if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) || !name.ends_with(suffix)) return {};
  const char *begin = name.data() + prefix.size(), *end = name.data() + name.size() - suffix.size();
  int64_t step = 0;
  auto [stop, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || stop != end || step < 0) return {};
  return step;
}

}  // namespace

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)) {
  make_directory(path_);
  make_directory(samples());
  make_directory(checkpoints());
  lock_ = take_lock(path_);
  for (const fs::path& directory : {path_, samples(), checkpoints()}) remove_half_written(directory);
}

RunDirectory::RunDirectory(RunDirectory&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

RunDirectory::~RunDirectory() {
  if (lock_ >= 0)
    ::close(lock_);  // releases the lock; the file stays, since removing it would race with its next owner
}

fs::path RunDirectory::checkpoint(int64_t step) const { return checkpoints() / fmt::format("step-{}.h5", step); }

void RunDirectory::write_config(std::string_view yaml) const { write_file(config(), yaml); }

fs::path RunDirectory::write_sample(int64_t step, std::string_view text) const {
  fs::path file = samples() / fmt::format("step-{}.txt", step);
  write_file(file, text, false);
  return file;
}

std::vector<CheckpointFile> checkpoint_files(const fs::path& run_directory) {
  std::vector<CheckpointFile> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run_directory / "checkpoints", ignored)) {
    if (auto step = step_of(entry.path().filename().string())) found.push_back({*step, entry.path()});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return found;
}

}  // namespace basis::trainers
