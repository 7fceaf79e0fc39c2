// Attributes of the HDF5 wrapper.
#include <algorithm>
#include <limits>

#include "trainers/hdf5_internal.h"

namespace basis::trainers {
namespace {

using hdf5::Caller;
using hdf5::Handle;

constexpr size_t kMaxFixedString = 1 << 16;  // HDF5's own limit for an attribute's bytes

core::ExitCode code_of(bool writing) { return writing ? core::ExitCode::runtime : core::ExitCode::bad_file; }

void put(hid_t file, const Caller& call, const std::string& name, hid_t stored, hid_t memory, const void* value) {
  Handle object = hdf5::open_object(file, call, call.object);
  if (call.check(H5Aexists(object.get(), name.c_str()), "look up an attribute") > 0)
    call.check(H5Adelete(object.get(), name.c_str()), "replace an attribute");
  Handle space = call.own(H5Screate(H5S_SCALAR), H5Sclose, "make a scalar");
  Handle attribute = call.own(H5Acreate2(object.get(), name.c_str(), stored, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                              H5Aclose, "create an attribute");
  call.check(H5Awrite(attribute.get(), memory, value), "write an attribute");
}

struct Attribute {
  Handle id, type;
};

// Opens the scalar attribute `name`.
Attribute get(hid_t file, const Caller& call, const std::string& name) {
  Handle object = hdf5::open_object(file, call, call.object);
  if (call.check(H5Aexists(object.get(), name.c_str()), "look up an attribute") == 0)
    call.refuse(fmt::format("the attribute {}", name), "none");
  Handle id = call.own(H5Aopen(object.get(), name.c_str(), H5P_DEFAULT), H5Aclose, "open an attribute");
  Handle space = call.own(H5Aget_space(id.get()), H5Sclose, "read an attribute's shape");
  if (H5Sget_simple_extent_npoints(space.get()) != 1)
    call.refuse(fmt::format("one value in the attribute {}", name), "an array");
  Handle type = call.own(H5Aget_type(id.get()), H5Tclose, "read an attribute's type");
  return {std::move(id), std::move(type)};
}

[[noreturn]] void wrong_type(const Caller& call, const std::string& name, std::string_view wanted) {
  call.refuse(fmt::format("{} in the attribute {}", wanted, name), "another type");
}

Handle string_type(size_t size, const Caller& call) {
  Handle type = call.own(H5Tcopy(H5T_C_S1), H5Tclose, "make a string type");
  H5Tset_size(type.get(), size);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

std::string read_fixed(const Attribute& a, const Caller& call) {
  size_t size = H5Tget_size(a.type.get());
  if (size > kMaxFixedString) call.refuse("a string of at most 64 KiB", std::to_string(size));
  std::string text(size, '\0');
  call.check(H5Aread(a.id.get(), a.type.get(), text.data()), "read an attribute");
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

std::string read_variable(const Attribute& a, const Caller& call) {
  Handle memory = string_type(H5T_VARIABLE, call);
  H5Tset_cset(memory.get(), H5Tget_cset(a.type.get()));
  char* text = nullptr;
  call.check(H5Aread(a.id.get(), memory.get(), &text), "read an attribute");
  std::string copy = text == nullptr ? "" : text;
  H5free_memory(text);
  return copy;
}

}  // namespace

bool Hdf5File::has_attribute(std::string_view object, const std::string& name) const {
  Caller call{path_, object, code_of(writing_)};
  Handle id = hdf5::open_object(id_, call, object);
  return call.check(H5Aexists(id.get(), name.c_str()), "look up an attribute") > 0;
}

std::vector<std::string> Hdf5File::attributes(std::string_view object) const {
  Caller call{path_, object, code_of(writing_)};
  Handle id = hdf5::open_object(id_, call, object);
  std::vector<std::string> names;
  auto add = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  call.check(H5Aiterate2(id.get(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &names), "list the attributes");
  std::sort(names.begin(), names.end());
  return names;
}

void Hdf5File::set(std::string_view object, const std::string& name, std::string_view value) {
  Caller call{path_, object, code_of(writing_)};
  if (value.find('\0') != std::string_view::npos)
    call.refuse(fmt::format("text in the attribute {}", name), "a zero byte");
  Handle type = string_type(H5T_VARIABLE, call);
  std::string copy(value);
  const char* text = copy.c_str();
  put(id_, call, name, type.get(), type.get(), &text);
}

void Hdf5File::set(std::string_view object, const std::string& name, int64_t value) {
  put(id_, {path_, object, code_of(writing_)}, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void Hdf5File::set(std::string_view object, const std::string& name, double value) {
  put(id_, {path_, object, code_of(writing_)}, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

std::string Hdf5File::get_string(std::string_view object, const std::string& name) const {
  Caller call{path_, object, code_of(writing_)};
  Attribute a = get(id_, call, name);
  if (H5Tget_class(a.type.get()) != H5T_STRING) wrong_type(call, name, "a string");
  return H5Tis_variable_str(a.type.get()) > 0 ? read_variable(a, call) : read_fixed(a, call);
}

int64_t Hdf5File::get_int(std::string_view object, const std::string& name) const {
  Caller call{path_, object, code_of(writing_)};
  Attribute a = get(id_, call, name);
  if (H5Tget_class(a.type.get()) != H5T_INTEGER || H5Tget_size(a.type.get()) > 8) wrong_type(call, name, "an integer");
  if (H5Tget_sign(a.type.get()) == H5T_SGN_NONE) {
    uint64_t value = 0;
    call.check(H5Aread(a.id.get(), H5T_NATIVE_UINT64, &value), "read an attribute");
    if (value > uint64_t(std::numeric_limits<int64_t>::max())) wrong_type(call, name, "an integer below 2^63");
    return int64_t(value);
  }
  int64_t value = 0;
  call.check(H5Aread(a.id.get(), H5T_NATIVE_INT64, &value), "read an attribute");
  return value;
}

double Hdf5File::get_double(std::string_view object, const std::string& name) const {
  Caller call{path_, object, code_of(writing_)};
  Attribute a = get(id_, call, name);
  H5T_class_t kind = H5Tget_class(a.type.get());
  if ((kind != H5T_INTEGER && kind != H5T_FLOAT) || H5Tget_size(a.type.get()) > 8) wrong_type(call, name, "a number");
  double value = 0;
  call.check(H5Aread(a.id.get(), H5T_NATIVE_DOUBLE, &value), "read an attribute");
  return value;
}

}  // namespace basis::trainers
