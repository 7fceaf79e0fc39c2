#include "trainers/hdf5.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "trainers/hdf5_internal.h"
#include "trainers/hdf5_seal.h"
#include "trainers/run/files.h"

namespace basis::trainers {
namespace hdf5 {

std::string last_error() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* e, void* out) -> herr_t {
        auto& text = *static_cast<std::string*>(out);
        if (text.empty() && e->desc != nullptr) text = e->desc;  // the innermost
        return 0;
      },
      &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "the HDF5 library gave no reason" : text;
}

void Caller::fail(std::string_view doing) const {
  std::string reason = last_error();
  int code = 0;  // the drivers write "..., errno = 28, error message = ..." into theirs
  if (size_t at = reason.find("errno = "); at != std::string::npos) code = std::atoi(reason.c_str() + at + 8);
  if (code == 0) throw error(path, object, {.got = fmt::format("cannot {}: {}", doing, reason), .code = this->code});
  core::Fault fault = os_error(path, doing, code).fault();
  fault.code = this->code;
  throw error(path, object, std::move(fault));
}

core::Error error(const std::filesystem::path& path, std::string_view object, core::Fault fault) {
  fault.where = object.empty() ? path.string() : fmt::format("{}:{}", path.string(), object);
  return core::Error(std::move(fault));
}

namespace {

// Path components; empty for "/". Throws for relative paths and empty, "." or ".." components.
std::vector<std::string> components(const Caller& call, std::string_view object) {
  std::vector<std::string> parts;
  if (object.empty() || object[0] != '/') call.refuse("an absolute object path", std::string(object));
  for (size_t at = 1; at < object.size();) {
    size_t end = std::min(object.find('/', at), object.size());
    std::string part(object.substr(at, end - at));
    if (part.empty() || part == "." || part == ".." || part.find('\0') != std::string::npos)
      call.refuse("an object path of plain names", std::string(object));
    parts.push_back(std::move(part));
    at = end + 1;
  }
  return parts;
}

// Whether `group` has the hard link `name`. Soft and external links are refused: they can point out of the file.
bool has_link(hid_t group, const Caller& call, const std::string& name) {
  if (call.check(H5Lexists(group, name.c_str(), H5P_DEFAULT), "look up a link") == 0) return false;
  H5L_info_t link;
  call.check(H5Lget_info(group, name.c_str(), &link, H5P_DEFAULT), "read a link");
  if (link.type != H5L_TYPE_HARD) call.refuse("a hard link", "a soft or external link");
  return true;
}

Handle open_member(hid_t group, const Caller& call, const std::string& name) {
  return call.own(H5Oopen(group, name.c_str(), H5P_DEFAULT), H5Oclose, "open the object");
}

bool is_group(hid_t id) { return H5Iget_type(id) == H5I_GROUP; }

Handle root(hid_t file, const Caller& call) {
  return call.own(H5Gopen2(file, "/", H5P_DEFAULT), H5Oclose, "open the root group");
}

}  // namespace

Handle open_object(hid_t file, const Caller& call, std::string_view object) {
  std::vector<std::string> parts = components(call, object);
  std::vector<Handle> chain;
  chain.push_back(root(file, call));
  for (const std::string& part : parts) {
    if (!is_group(chain.back().get()) || !has_link(chain.back().get(), call, part))
      call.refuse("this object in the file", "none of that name");
    chain.push_back(open_member(chain.back().get(), call, part));
  }
  return std::move(chain.back());
}

}  // namespace hdf5

using hdf5::Caller;
using hdf5::Handle;

namespace {

core::ExitCode code_of(bool writing) { return writing ? core::ExitCode::runtime : core::ExitCode::bad_file; }

Handle file_access() {
  // The handler that HDF5 runs at exit writes again what a full disk refused, and crashes (1.10.8).
  [[maybe_unused]] static const herr_t no_exit_handler = H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // errors are exceptions here, not text on stderr
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  return access;
}

void check_regular(const std::filesystem::path& path, int64_t& size) {
  auto refuse = [&](std::string got) {
    throw core::Error({.where = path.string(),
                       .expected = "a readable HDF5 file",
                       .got = std::move(got),
                       .code = core::ExitCode::bad_file});
  };
  struct stat s;
  if (::stat(path.c_str(), &s) != 0) refuse(std::strerror(errno));
  if (S_ISDIR(s.st_mode)) refuse("a directory");
  if (!S_ISREG(s.st_mode)) refuse("something that is not a file");
  if (s.st_size == 0) refuse("an empty file");
  if (::access(path.c_str(), R_OK) != 0) refuse(std::strerror(errno));
  size = int64_t(s.st_size);
}

}  // namespace

Hdf5File Hdf5File::open(const std::filesystem::path& path) {
  int64_t size = 0;
  check_regular(path, size);
  Handle access = file_access();
  if (H5Fis_hdf5(path.c_str()) <= 0) {
    hdf5::last_error();
    throw core::Error({.where = path.string(),
                       .expected = "an HDF5 file",
                       .got = "no HDF5 signature",
                       .remedy = "not HDF5, or its writing was cut short",
                       .code = core::ExitCode::bad_file});
  }
  check_seal(path);
  hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (id < 0)
    throw core::Error({.where = path.string(),
                       .got = fmt::format("this HDF5 file does not open: {}", hdf5::last_error()),
                       .remedy = "its writing was cut short, or another process is writing it",
                       .code = core::ExitCode::bad_file});
  return Hdf5File(path, id, false, size);
}

Hdf5File Hdf5File::create(const std::filesystem::path& path) {
  Handle access = file_access();
  Caller call{path, "", core::ExitCode::runtime};
  return Hdf5File(
      path, call.check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), "create the file"), true, 0);
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept
    : path_(std::move(other.path_)),
      id_(std::exchange(other.id_, -1)),
      writing_(other.writing_),
      size_(other.size_),
      written_(std::move(other.written_)) {}

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  std::swap(path_, other.path_), std::swap(id_, other.id_);
  std::swap(writing_, other.writing_), std::swap(size_, other.size_), std::swap(written_, other.written_);
  return *this;
}

Hdf5File::~Hdf5File() {
  if (id_ >= 0) H5Fclose(id_);
}

void Hdf5File::close() {
  if (id_ < 0) return;
  Caller call{path_, "", code_of(writing_)};
  if (writing_ && H5Fflush(id_, H5F_SCOPE_LOCAL) < 0) call.fail("write the file");
  std::vector<FileRange> elements;
  for (const std::string& name : written_) elements.push_back(stored_range(name));
  call.check(H5Fclose(std::exchange(id_, -1)), "close the file");
  if (writing_) seal_file(path_, std::move(elements));
}

bool Hdf5File::exists(std::string_view object) const {
  Caller call{path_, object, code_of(writing_)};
  std::vector<std::string> parts = hdf5::components(call, object);
  std::vector<Handle> chain;
  chain.push_back(hdf5::root(id_, call));
  for (const std::string& part : parts) {
    hid_t parent = chain.back().get();
    if (!hdf5::is_group(parent) || !hdf5::has_link(parent, call, part)) return false;
    chain.push_back(hdf5::open_member(parent, call, part));
  }
  return true;
}

bool Hdf5File::is_dataset(std::string_view object) const {
  if (!exists(object)) return false;
  Caller call{path_, object, code_of(writing_)};
  return H5Iget_type(hdf5::open_object(id_, call, object).get()) == H5I_DATASET;
}

std::vector<std::string> Hdf5File::list(std::string_view group) const {
  Caller call{path_, group, code_of(writing_)};
  Handle id = hdf5::open_object(id_, call, group);
  if (!hdf5::is_group(id.get())) call.refuse("a group", "a dataset or type");
  std::vector<std::string> names;
  auto add = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  call.check(H5Literate(id.get(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &names), "list the group");
  std::sort(names.begin(), names.end());
  return names;
}

void Hdf5File::create_group(std::string_view group) {
  Caller call{path_, group, code_of(writing_)};
  std::vector<Handle> chain;
  chain.push_back(hdf5::root(id_, call));
  for (const std::string& part : hdf5::components(call, group)) {
    hid_t parent = chain.back().get();
    if (hdf5::has_link(parent, call, part))
      chain.push_back(hdf5::open_member(parent, call, part));
    else
      chain.push_back(call.own(H5Gcreate2(parent, part.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Oclose,
                               "create the group"));
    if (!hdf5::is_group(chain.back().get())) call.refuse("a group", fmt::format("a dataset named {}", part));
  }
}

}  // namespace basis::trainers
