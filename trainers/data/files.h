// Reading the files a run is trained on: paths with wildcards, whole files, memory-mapped files.
// Every failure is a core::Error with ExitCode::bad_file that names the path.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace basis::trainers {

core::Error bad_file(const std::filesystem::path& path, std::string expected, std::string got, std::string remedy = "");

// Expands `*`, `?`, `[a-z]` and `**` (any number of directories), each pattern's files sorted bytewise, without
// repeats; the order of the patterns is kept. Hidden files match only when the pattern says so. A path without
// wildcards stands for itself. A pattern that matches no file is an error.
std::vector<std::filesystem::path> expand_paths(std::span<const std::string> patterns);

// The whole content of a regular file.
std::string read_file(const std::filesystem::path& path);

// A read-only memory map of a regular, non-empty file. Cutting the file while it is mapped kills the process (SIGBUS).
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace basis::trainers
