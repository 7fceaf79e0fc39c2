// The seal of a finished file: a trailer after the end of the HDF5 data, where other readers of HDF5 do not look, with
// a checksum of everything that is not the elements of a dataset. It is compared before the HDF5 library sees the file,
// because that library reads past its buffers on damaged metadata (tests/fuzz/README.md): a truncated, torn or damaged
// file is refused, not parsed. Elements have checksums of their own (hdf5.h), so that shards can be memory-mapped.
//
//   u64 offset, u64 bytes   of each dataset's elements, ascending
//   u64 count               of them
//   u32 CRC-32C             of all bytes before the trailer outside these ranges, then of the trailer up to here
//   char[4]                 "BSL1"
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace basis::trainers {

struct FileRange {
  uint64_t offset, bytes;
};

// Appends the trailer. Throws core::Error (runtime) when the file cannot be written.
void seal_file(const std::filesystem::path& path, std::vector<FileRange> elements);

// Throws core::Error (bad_file) unless the file has a seal that holds.
void check_seal(const std::filesystem::path& path);

}  // namespace basis::trainers
