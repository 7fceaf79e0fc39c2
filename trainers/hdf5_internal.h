// What the two source files of the HDF5 wrapper share: owned identifiers and the one conversion of HDF5's errors.
#pragma once

#include <fmt/format.h>
#include <hdf5.h>

#include <string>
#include <string_view>
#include <utility>

#include "trainers/hdf5.h"

namespace basis::trainers::hdf5 {

// The innermost message of HDF5's error stack, which is then cleared.
std::string last_error();

// The core::Error for `object` in the file `path`.
core::Error error(const std::filesystem::path& path, std::string_view object, core::Fault fault);

// An owned identifier of any kind.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle(hid_t id, Closer close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const { return id_; }

 private:
  hid_t id_;
  Closer close_;
};

// One file's context for checks: every HDF5 result passes through `check` or `own`.
struct Caller {
  const std::filesystem::path& path;
  std::string_view object;
  core::ExitCode code;

  template <class Result>
  Result check(Result result, std::string_view doing) const {
    if (result < 0) fail(doing);
    return result;
  }
  Handle own(hid_t id, Handle::Closer close, std::string_view doing) const { return Handle(check(id, doing), close); }
  [[noreturn]] void fail(std::string_view doing) const;
  [[noreturn]] void refuse(std::string expected, std::string got, std::string remedy = "") const {
    throw error(path, object,
                {.expected = std::move(expected), .got = std::move(got), .remedy = std::move(remedy), .code = code});
  }
};

// Opens the object at an absolute path, following hard links only.
Handle open_object(hid_t file, const Caller& call, std::string_view object);

}  // namespace basis::trainers::hdf5
