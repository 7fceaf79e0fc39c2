#include "trainers/run/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace basis::trainers {
namespace {

constexpr std::string_view temporary_mark = ".tmp.";

std::string remedy_for(int code) {
  switch (code) {
    case ENOSPC:
      return "the disk is full: free some space, or set run.out_dir to another disk";
    case EDQUOT:
      return "the disk quota is used up: free some space, or set run.out_dir to another disk";
    case EACCES:
    case EPERM:
      return "no permission: check the owner and mode of the directory, or set run.out_dir to one that is writable";
    case EROFS:
      return "the file system is read-only: set run.out_dir to a writable one";
    case EMFILE:
    case ENFILE:
      return "too many open files: raise `ulimit -n`";
    default:
      return "";
  }
}

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

  // close() may be the call that reports a failed write (NFS, quotas).
  int close() {
    int result = ::close(fd_);
    fd_ = -1;
    return result;
  }

 private:
  int fd_;
};

void sync_path(const std::filesystem::path& path, int flags) {
  Descriptor file(path, O_RDONLY | flags);
  if (!file) throw os_error(path, "open it to make it durable", errno);
  // Some file systems cannot sync a directory and say EINVAL; the rename is then as durable as it gets.
  if (::fsync(file.get()) != 0 && errno != EINVAL) throw os_error(path, "fsync", errno);
}

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void rename_over(const std::filesystem::path& temporary, const std::filesystem::path& path) {
  if (::rename(temporary.c_str(), path.c_str()) != 0) throw os_error(path, "rename a complete file to it", errno);
}

void write_whole(const std::filesystem::path& path, std::string_view content) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file) throw os_error(path, "create the file", errno);
  write_all(file.get(), content, path);
  if (file.close() != 0) throw os_error(path, "close the file", errno);
}

template <class Body>
void or_remove(const std::filesystem::path& temporary, Body&& body) {
  try {
    body();
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

}  // namespace

core::Error os_error(const std::filesystem::path& path, std::string_view doing, int code) {
  return core::Error({.where = path.string(),
                      .got = fmt::format("cannot {}: {}", doing, std::strerror(code)),
                      .remedy = remedy_for(code),
                      .code = core::ExitCode::runtime});
}

std::filesystem::path temporary_path(const std::filesystem::path& path) {
  return path.string() + std::string(temporary_mark) + std::to_string(::getpid());
}

bool is_temporary(const std::filesystem::path& path) {
  std::string name = path.filename().string();
  size_t at = name.rfind(temporary_mark);
  if (at == std::string::npos || at + temporary_mark.size() == name.size()) return false;
  return name.find_first_not_of("0123456789", at + temporary_mark.size()) == std::string::npos;
}

void replace_file(const std::filesystem::path& temporary, const std::filesystem::path& path) {
  or_remove(temporary, [&] {
    sync_path(temporary, 0);
    rename_over(temporary, path);
  });
  sync_path(directory_of(path), O_DIRECTORY);
}

void write_then_replace(const std::filesystem::path& path,
                        const std::function<void(const std::filesystem::path&)>& write) {
  std::filesystem::path temporary = temporary_path(path);
  or_remove(temporary, [&] { write(temporary); });
  replace_file(temporary, path);
}

void write_file(const std::filesystem::path& path, std::string_view content, bool durable) {
  std::filesystem::path temporary = temporary_path(path);
  or_remove(temporary, [&] { write_whole(temporary, content); });
  if (durable) return replace_file(temporary, path);
  or_remove(temporary, [&] { rename_over(temporary, path); });
}

void write_all(int descriptor, std::string_view content, const std::filesystem::path& path) {
  while (!content.empty()) {
    ssize_t n = ::write(descriptor, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw os_error(path, "write to it", errno);
    content.remove_prefix(size_t(n));
  }
}

}  // namespace basis::trainers
