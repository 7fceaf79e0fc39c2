#include "trainers/data/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;

// An open regular file.
struct Descriptor {
  int fd = -1;
  int64_t size = 0;
  explicit Descriptor(const fs::path& path) : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (fd < 0) throw bad_file(path, "a readable file", std::strerror(errno));
    struct stat s;
    if (::fstat(fd, &s) == 0 && S_ISREG(s.st_mode)) {
      size = int64_t(s.st_size);
      return;
    }
    ::close(fd);
    throw bad_file(path, "a file", fs::is_directory(path) ? "a directory" : "something that is not a regular file",
                   fs::is_directory(path) ? "name the files in it, for example with /*.txt" : "");
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(fd); }
};

bool has_wildcard(std::string_view text) { return text.find_first_of("*?[") != std::string_view::npos; }

std::vector<fs::path> entries(const fs::path& directory) {
  std::error_code ignored;  // an unreadable directory matches nothing
  std::vector<fs::path> names;
  fs::directory_iterator it(directory.empty() ? fs::path(".") : directory, ignored), end;
  for (; !ignored && it != end; it.increment(ignored)) names.push_back(it->path().filename());
  return names;
}

// Adds to `found` the regular files that match the components [at, end) below `base`.
void match(const fs::path& base, const std::vector<std::string>& parts, size_t at, std::set<std::string>& found) {
  std::error_code ignored;
  if (at == parts.size()) {
    if (fs::is_regular_file(base, ignored)) found.insert(base.string());
    return;
  }
  const std::string& part = parts[at];
  if (part == "**") {
    match(base, parts, at + 1, found);
    for (const fs::path& name : entries(base)) {
      fs::path below = base / name;
      if (name.string()[0] == '.' || !fs::is_directory(fs::symlink_status(below, ignored))) continue;
      match(below, parts, at, found);
    }
  } else if (has_wildcard(part)) {
    for (const fs::path& name : entries(base))
      if (::fnmatch(part.c_str(), name.c_str(), FNM_PERIOD) == 0) match(base / name, parts, at + 1, found);
  } else {
    match(base / part, parts, at + 1, found);
  }
}

std::set<std::string> expand(const std::string& pattern) {
  fs::path path(pattern);
  std::vector<std::string> parts;
  for (const fs::path& part : path.relative_path())
    if (parts.empty() || part != "**" || parts.back() != "**") parts.push_back(part.string());
  std::set<std::string> found;
  match(path.root_path(), parts, 0, found);
  return found;
}

}  // namespace

core::Error bad_file(const fs::path& path, std::string expected, std::string got, std::string remedy) {
  return core::Error({.where = path.string(),
                      .expected = std::move(expected),
                      .got = std::move(got),
                      .remedy = std::move(remedy),
                      .code = core::ExitCode::bad_file});
}

std::vector<fs::path> expand_paths(std::span<const std::string> patterns) {
  std::vector<fs::path> paths;
  std::set<std::string> seen;
  auto add = [&](const std::string& path) {
    if (seen.insert(path).second) paths.emplace_back(path);
  };
  for (const std::string& pattern : patterns) {
    std::error_code ignored;
    if (pattern.empty()) throw bad_file("data", "a path", "an empty one");
    if (!has_wildcard(pattern) || fs::exists(pattern, ignored)) {
      if (!fs::exists(pattern, ignored)) throw bad_file(pattern, "a file", "no such file");
      add(pattern);
      continue;
    }
    std::set<std::string> found = expand(pattern);
    if (found.empty()) throw bad_file(pattern, "at least one matching file", "none", "check the path and the pattern");
    for (const std::string& path : found) add(path);
  }
  return paths;
}

std::string read_file(const fs::path& path) {
  Descriptor file(path);
  std::string text(size_t(file.size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    ssize_t n = ::read(file.fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw bad_file(path, "a readable file", std::strerror(errno));
    if (n == 0) throw bad_file(path, fmt::format("{} bytes", text.size()), fmt::format("{}", done), "the file shrank");
    done += size_t(n);
  }
  return text;
}

MappedFile::MappedFile(const fs::path& path) {
  Descriptor file(path);
  if (file.size == 0) throw bad_file(path, "data", "an empty file");
  void* map = ::mmap(nullptr, size_t(file.size), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (map == MAP_FAILED) throw bad_file(path, "a file that can be memory-mapped", std::strerror(errno));
  data_ = static_cast<const std::byte*>(map), size_ = size_t(file.size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace basis::trainers
