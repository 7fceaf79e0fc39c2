// Datasets of the HDF5 wrapper: element types, checks of what a file declares, transfers.
#include <algorithm>

#include "trainers/hdf5_internal.h"

namespace basis::trainers {
namespace {

using hdf5::Caller;
using hdf5::Handle;

constexpr std::string_view kNames[] = {"u8", "u16", "u32", "u64", "i32", "i64", "f32", "f64", "bf16", "f16"};
constexpr int64_t kSizes[] = {1, 2, 4, 8, 4, 8, 4, 8, 2, 2};

hid_t file_type(Element type) {
  const hid_t types[] = {H5T_STD_U8LE,  H5T_STD_U16LE,  H5T_STD_U32LE,  H5T_STD_U64LE, H5T_STD_I32LE,
                         H5T_STD_I64LE, H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_STD_U16LE, H5T_STD_U16LE};
  return types[int(type)];
}

Element element_in_file(hid_t type, const Caller& call) {
  for (Element e :
       {Element::u8, Element::u16, Element::u32, Element::u64, Element::i32, Element::i64, Element::f32, Element::f64})
    if (H5Tequal(type, file_type(e)) > 0) return e;
  call.refuse("little-endian u8, u16, u32, u64, i32, i64, f32 or f64", "another element type");
}

core::ExitCode code_of(bool writing) { return writing ? core::ExitCode::runtime : core::ExitCode::bad_file; }

Handle open_dataset(hid_t file, const Caller& call, std::string_view dataset) {
  Handle id = hdf5::open_object(file, call, dataset);
  if (H5Iget_type(id.get()) != H5I_DATASET) call.refuse("a dataset", "a group or type");
  return id;
}

// Elements of `shape`; refuses negative sizes and products that do not fit.
int64_t count_of(std::span<const int64_t> shape, int64_t element_size, const Caller& call) {
  int64_t count = 1;
  for (int64_t d : shape) {
    if (d < 0) call.refuse("sizes >= 0", std::to_string(d));
    if (__builtin_mul_overflow(count, d, &count)) call.refuse("a number of elements below 2^63", "more");
  }
  int64_t bytes;
  if (__builtin_mul_overflow(count, element_size, &bytes)) call.refuse("a number of bytes below 2^63", "more");
  return count;
}

std::vector<int64_t> shape_in_file(hid_t dataset, const Caller& call) {
  Handle space = call.own(H5Dget_space(dataset), H5Sclose, "read the shape");
  if (H5Sget_simple_extent_type(space.get()) == H5S_NULL) call.refuse("a shape", "a null dataspace");
  int rank = call.check(H5Sget_simple_extent_ndims(space.get()), "read the rank");
  std::vector<hsize_t> dims(size_t(rank) + 1);
  call.check(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr), "read the shape");
  std::vector<int64_t> shape(dims.begin(), dims.begin() + rank);
  return shape;
}

// Contiguous or compact storage inside this file, large enough for what the shape declares.
int64_t checked_offset(hid_t dataset, int64_t bytes, int64_t file_size, const Caller& call) {
  Handle properties = call.own(H5Dget_create_plist(dataset), H5Pclose, "read the layout");
  H5D_layout_t layout = H5Pget_layout(properties.get());
  if (layout != H5D_CONTIGUOUS && layout != H5D_COMPACT)
    call.refuse("contiguous storage", layout == H5D_CHUNKED ? "chunks" : "a virtual dataset",
                "write the dataset without chunks and compression");
  if (H5Pget_external_count(properties.get()) != 0) call.refuse("storage inside the file", "external storage");
  haddr_t offset = layout == H5D_CONTIGUOUS ? H5Dget_offset(dataset) : HADDR_UNDEF;
  if (layout == H5D_CONTIGUOUS && offset == HADDR_UNDEF && bytes > 0) call.refuse("stored values", "none");
  int64_t begin = offset == HADDR_UNDEF ? 0 : int64_t(offset);
  if (begin < 0 || begin > file_size || bytes > file_size - begin)
    call.refuse(fmt::format("{} bytes of data", bytes), fmt::format("a file of {} bytes", file_size),
                "the file is damaged or was cut short");
  return offset == HADDR_UNDEF || bytes == 0 ? -1 : begin;
}

}  // namespace

int64_t size_of(Element type) { return kSizes[int(type)]; }
std::string_view name_of(Element type) { return kNames[int(type)]; }

Element element_of(core::DType type) {
  return core::dispatch(type, []<class T>(std::type_identity<T>) { return element_type<T>(); });
}

core::DType dtype_of(Element type) {
  if (type == Element::u32 || type == Element::u64)
    throw core::Error({.where = "HDF5 element type", .expected = "a tensor's type", .got = std::string(name_of(type))});
  return core::parse_dtype(name_of(type));
}

DatasetInfo Hdf5File::info(std::string_view dataset) const {
  Caller call{path_, dataset, code_of(writing_)};
  Handle id = open_dataset(id_, call, dataset);
  Handle type = call.own(H5Dget_type(id.get()), H5Tclose, "read the element type");
  DatasetInfo info{.type = element_in_file(type.get(), call), .shape = shape_in_file(id.get(), call)};
  if (info.type == Element::u16 && has_attribute(dataset, "dtype")) {
    std::string name = get_string(dataset, "dtype");
    if (name == "bf16") info.type = Element::bf16;
    if (name == "f16") info.type = Element::f16;
  }
  info.elements = count_of(info.shape, size_of(info.type), call);
  info.bytes = info.elements * size_of(info.type);
  info.file_offset = writing_ ? -1 : checked_offset(id.get(), info.bytes, size_, call);
  return info;
}

void Hdf5File::create_dataset(std::string_view dataset, Element type, std::span<const int64_t> shape) {
  Caller call{path_, dataset, code_of(writing_)};
  count_of(shape, size_of(type), call);
  size_t slash = dataset.rfind('/');
  if (slash == std::string_view::npos || slash + 1 == dataset.size())
    call.refuse("an absolute dataset path", std::string(dataset));
  if (slash > 0) create_group(dataset.substr(0, slash));
  std::vector<hsize_t> dims(shape.begin(), shape.end());
  Handle space =
      call.own(dims.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(int(dims.size()), dims.data(), nullptr),
               H5Sclose, "make the shape");
  Handle properties = call.own(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "make the layout");
  H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER);  // every element is written once, by us
  std::string name(dataset);
  call.own(H5Dcreate2(id_, name.c_str(), file_type(type), space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT),
           H5Dclose, "create the dataset");
  if (type == Element::bf16 || type == Element::f16) set(dataset, "dtype", name_of(type));
  written_.push_back(std::move(name));
}

FileRange Hdf5File::stored_range(const std::string& dataset) const {
  Handle id = open_dataset(id_, {path_, dataset, code_of(writing_)}, dataset);
  haddr_t offset = H5Dget_offset(id.get());
  return offset == HADDR_UNDEF ? FileRange{0, 0} : FileRange{offset, H5Dget_storage_size(id.get())};
}

void Hdf5File::write(std::string_view dataset, Element type, std::span<const int64_t> shape, const void* data) {
  create_dataset(dataset, type, shape);
  int64_t count = count_of(shape, size_of(type), {path_, dataset, code_of(writing_)});
  transfer(dataset, type, 0, count, data, nullptr);
  set_checksum(dataset, crc32c(data, size_t(count * size_of(type))));
}

void Hdf5File::write_range(std::string_view dataset, int64_t first, int64_t count, const void* data) {
  transfer(dataset, info(dataset).type, first, count, data, nullptr);
}

void Hdf5File::set_checksum(std::string_view dataset, uint32_t crc) { set(dataset, "crc32c", int64_t{crc}); }

void Hdf5File::read(std::string_view dataset, Element type, void* data, int64_t bytes) const {
  DatasetInfo i = info(dataset);
  Caller call{path_, dataset, code_of(writing_)};
  check_type(dataset, i.type, type);
  if (i.bytes != bytes) call.refuse(fmt::format("{} bytes", bytes), fmt::format("{}", i.bytes));
  transfer(dataset, type, 0, i.elements, nullptr, data);
  if (!has_attribute(dataset, "crc32c")) return;
  int64_t stored = get_int(dataset, "crc32c"), found = crc32c(data, size_t(bytes));
  if (stored != found)
    call.refuse(fmt::format("checksum {:08x}", uint64_t(stored)), fmt::format("{:08x}", uint64_t(found)),
                "the file is damaged; use another copy");
}

void Hdf5File::read_range(std::string_view dataset, Element type, int64_t first, int64_t count, void* data) const {
  check_type(dataset, info(dataset).type, type);
  transfer(dataset, type, first, count, nullptr, data);
}

// Elements [first, first + count) of the flattened dataset. Ranges need rank 1, unless they cover everything.
void Hdf5File::transfer(std::string_view dataset, Element type, int64_t first, int64_t count, const void* from,
                        void* to) const {
  Caller call{path_, dataset, code_of(writing_)};
  DatasetInfo i = info(dataset);
  if (first < 0 || count < 0 || first > i.elements || count > i.elements - first)
    call.refuse(fmt::format("a range within {} elements", i.elements),
                fmt::format("[{}, {} + {})", first, first, count));
  if (count == 0) return;
  bool whole = count == i.elements;
  if (!whole && i.shape.size() != 1) call.refuse("rank 1 for a range", fmt::format("rank {}", i.shape.size()));
  Handle id = open_dataset(id_, call, dataset);
  Handle stored = call.own(H5Dget_space(id.get()), H5Sclose, "read the shape");
  hsize_t start = hsize_t(first), size = hsize_t(count);
  if (!whole)
    call.check(H5Sselect_hyperslab(stored.get(), H5S_SELECT_SET, &start, nullptr, &size, nullptr), "select a range");
  Handle memory = call.own(H5Screate_simple(1, &size, nullptr), H5Sclose, "make the shape");
  if (from != nullptr)
    call.check(H5Dwrite(id.get(), file_type(type), memory.get(), stored.get(), H5P_DEFAULT, from), "write the data");
  else
    call.check(H5Dread(id.get(), file_type(type), memory.get(), stored.get(), H5P_DEFAULT, to), "read the data");
}

void Hdf5File::check_count(std::string_view dataset, std::span<const int64_t> shape, int64_t count) const {
  Caller call{path_, dataset, code_of(writing_)};
  int64_t expected = count_of(shape, 1, call);
  if (expected != count) call.refuse(fmt::format("{} elements", expected), fmt::format("{}", count));
}

void Hdf5File::check_type(std::string_view dataset, Element stored, Element wanted) const {
  Caller call{path_, dataset, code_of(writing_)};
  if (stored != wanted) call.refuse(std::string(name_of(wanted)), std::string(name_of(stored)));
}

}  // namespace basis::trainers
