// Files that are either whole or absent, and system errors as core::Error.
#pragma once

#include <filesystem>
#include <functional>
#include <string_view>

#include "core/error.h"

namespace basis::trainers {

// The core::Error (ExitCode::runtime) for a failed system call: `doing` is a verb phrase ("write the file"), `code` an
// errno. A full disk, a missing permission and a read-only file system come with their remedy.
core::Error os_error(const std::filesystem::path& path, std::string_view doing, int code);

// The name under which `path` is written before it is complete: in the same directory, unique to this process.
std::filesystem::path temporary_path(const std::filesystem::path& path);
bool is_temporary(const std::filesystem::path& path);

// Makes the complete file `temporary` durable under the name `path`: fsync, rename, fsync of the directory. After a
// crash `path` holds the old content or the new. Throws core::Error; `temporary` is then removed.
void replace_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

// Calls write(temporary name) and makes what it wrote durable under the name `path`. Throws what `write` and
// replace_file throw; no temporary file is left then.
void write_then_replace(const std::filesystem::path& path,
                        const std::function<void(const std::filesystem::path& temporary)>& write);

// Writes `content` to `path` so; creates no directories. `durable` = false leaves out the fsyncs, for files that are
// rewritten often and can be made again (a curve).
void write_file(const std::filesystem::path& path, std::string_view content, bool durable = true);

// Writes all of `content` to an open descriptor, over short writes and interruptions. `path` is for the message.
void write_all(int descriptor, std::string_view content, const std::filesystem::path& path);

}  // namespace basis::trainers
