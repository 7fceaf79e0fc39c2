// Log lines, to stderr: stdout belongs to results (`--json`). What they quote cannot drive a terminal.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "core/utf8.h"

namespace basis::core {

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(stderr, "{}\n", printable(fmt::format(format, std::forward<Args>(args)...)));
}

template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(stderr, "warning: {}\n", printable(fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace basis::core
