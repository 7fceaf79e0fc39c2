// HDF5 files behind a small wrapper: datasets and attributes by absolute path ("/model/layers/0/weight").
//
// Written: contiguous little-endian datasets without chunks or filters, each with the CRC-32C of its bytes in the
// attribute `crc32c`; bf16 and f16 as u16 with the attribute `dtype`; strings as variable-length UTF-8 attributes.
// Read: hostile input. Type, rank, sizes and overflow are checked against the file before anything is allocated; links
// out of the file, external and virtual storage and filters are refused.
//
// close() seals a written file (hdf5_seal.h), and open() reads only sealed ones.
//
// Every failure is a core::Error: ExitCode::bad_file while reading, ExitCode::runtime while writing (a full disk).
// The HDF5 library is not thread-safe: all files of a process are used from one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "trainers/hdf5_seal.h"

namespace basis::trainers {

// CRC-32C (Castagnoli, reflected, as in iSCSI, RFC 3720) of `bytes`; pass the previous result to go on.
uint32_t crc32c(const void* bytes, size_t size, uint32_t previous = 0);

enum class Element : uint8_t { u8, u16, u32, u64, i32, i64, f32, f64, bf16, f16 };
int64_t size_of(Element type);
std::string_view name_of(Element type);
Element element_of(core::DType type);
core::DType dtype_of(Element type);  // throws for u32 and u64, which no tensor has

template <class T>
constexpr Element element_type() {
  if constexpr (std::is_same_v<T, uint32_t>) return Element::u32;
  if constexpr (std::is_same_v<T, uint64_t>) return Element::u64;
  if constexpr (std::is_same_v<T, uint8_t>) return Element::u8;
  if constexpr (std::is_same_v<T, uint16_t>) return Element::u16;
  if constexpr (std::is_same_v<T, int32_t>) return Element::i32;
  if constexpr (std::is_same_v<T, int64_t>) return Element::i64;
  if constexpr (std::is_same_v<T, float>) return Element::f32;
  if constexpr (std::is_same_v<T, double>) return Element::f64;
  if constexpr (std::is_same_v<T, core::bf16>) return Element::bf16;
  if constexpr (std::is_same_v<T, core::f16>) return Element::f16;
}

struct DatasetInfo {
  Element type;
  std::vector<int64_t> shape;  // empty: a scalar
  int64_t elements, bytes;
  int64_t file_offset;  // of the first byte in the file, for memory mapping; -1 when nothing is stored
};

// An open file. Destruction closes without a check; after writing call close(), which reports a failed flush.
class Hdf5File {
 public:
  static Hdf5File open(const std::filesystem::path& path);    // read only
  static Hdf5File create(const std::filesystem::path& path);  // replaces what is there
  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&& other) noexcept;
  ~Hdf5File();
  void close();
  const std::filesystem::path& path() const { return path_; }

  bool exists(std::string_view object) const;
  bool is_dataset(std::string_view object) const;
  std::vector<std::string> list(std::string_view group) const;  // names of the members, sorted bytewise
  void create_group(std::string_view group);                    // and the groups above it; no error when it exists

  DatasetInfo info(std::string_view dataset) const;

  // Creates the dataset (and the groups above it), writes it whole and records its checksum.
  void write(std::string_view dataset, Element type, std::span<const int64_t> shape, const void* data);
  template <class T>
  void write(std::string_view dataset, std::span<const int64_t> shape, std::span<const T> data) {
    check_count(dataset, shape, int64_t(data.size()));
    write(dataset, element_type<T>(), shape, data.data());
  }

  // In parts, for what does not fit in memory: create, then ranges of the flattened elements, then the checksum of all.
  void create_dataset(std::string_view dataset, Element type, std::span<const int64_t> shape);
  void write_range(std::string_view dataset, int64_t first, int64_t count, const void* data);
  void set_checksum(std::string_view dataset, uint32_t crc);

  // Reads the whole dataset into `data` of exactly `bytes` bytes; the type must be `type`. Compares the checksum where
  // the dataset has one.
  void read(std::string_view dataset, Element type, void* data, int64_t bytes) const;
  template <class T>
  std::vector<T> read(std::string_view dataset) const {
    DatasetInfo i = info(dataset);
    check_type(dataset, i.type, element_type<T>());
    std::vector<T> data(size_t(i.elements));
    read(dataset, element_type<T>(), data.data(), i.bytes);
    return data;
  }
  // A one-dimensional range [first, first + count) of a rank-1 dataset; no checksum.
  void read_range(std::string_view dataset, Element type, int64_t first, int64_t count, void* data) const;

  // Attributes of a group or dataset ("/" is the root).
  bool has_attribute(std::string_view object, const std::string& name) const;
  std::vector<std::string> attributes(std::string_view object) const;  // names, sorted
  void set(std::string_view object, const std::string& name, std::string_view value);
  void set(std::string_view object, const std::string& name, const char* value) {
    set(object, name, std::string_view(value));
  }
  void set(std::string_view object, const std::string& name, int64_t value);
  void set(std::string_view object, const std::string& name, double value);
  std::string get_string(std::string_view object, const std::string& name) const;
  int64_t get_int(std::string_view object, const std::string& name) const;    // any integer type that fits
  double get_double(std::string_view object, const std::string& name) const;  // any number type

 private:
  Hdf5File(std::filesystem::path path, int64_t id, bool writing, int64_t size)
      : path_(std::move(path)), id_(id), writing_(writing), size_(size) {}
  void check_count(std::string_view dataset, std::span<const int64_t> shape, int64_t count) const;
  FileRange stored_range(const std::string& dataset) const;
  void check_type(std::string_view dataset, Element stored, Element wanted) const;
  void transfer(std::string_view dataset, Element type, int64_t first, int64_t count, const void* from, void* to) const;

  std::filesystem::path path_;
  int64_t id_ = -1;  // hid_t
  bool writing_ = false;
  int64_t size_ = 0;                  // bytes of the file when opened for reading
  std::vector<std::string> written_;  // datasets created
};

}  // namespace basis::trainers
