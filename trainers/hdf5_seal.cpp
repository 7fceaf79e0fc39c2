#include "trainers/hdf5_seal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

#include "core/error.h"
#include "trainers/hdf5.h"

namespace basis::trainers {
namespace {

constexpr char kMagic[4] = {'B', 'S', 'L', '1'};
constexpr uint64_t kTail = 8 + 4 + 4;  // count, checksum, magic

// CRC-32C of the bytes [0, end) outside `skipped`, which ascends and lies within.
uint32_t checksum_outside(std::istream& in, uint64_t end, const std::vector<FileRange>& skipped) {
  std::vector<char> buffer(1 << 16);
  uint32_t crc = 0;
  uint64_t at = 0;
  auto through = [&](uint64_t stop) {
    in.seekg(std::streamoff(at));
    while (at < stop && in) {
      auto n = std::min<uint64_t>(buffer.size(), stop - at);
      in.read(buffer.data(), std::streamsize(n));
      crc = crc32c(buffer.data(), size_t(in.gcount()), crc);
      at += n;
    }
  };
  for (const FileRange& r : skipped) through(r.offset), at = r.offset + r.bytes;
  through(end);
  return crc;
}

uint32_t checksum_of(const std::vector<FileRange>& ranges, uint64_t count, uint32_t previous) {
  return crc32c(&count, sizeof count, crc32c(ranges.data(), ranges.size() * sizeof(FileRange), previous));
}

bool ascending_within(const std::vector<FileRange>& ranges, uint64_t end) {
  uint64_t at = 0;
  for (const FileRange& r : ranges) {
    if (r.offset < at || r.offset > end || r.bytes > end - r.offset) return false;
    at = r.offset + r.bytes;
  }
  return true;
}

}  // namespace

void seal_file(const std::filesystem::path& path, std::vector<FileRange> elements) {
  std::erase_if(elements, [](const FileRange& r) { return r.bytes == 0; });
  std::sort(elements.begin(), elements.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(0, std::ios::end);
  uint64_t end = uint64_t(file.tellg()), count = elements.size();
  uint32_t crc = checksum_of(elements, count, checksum_outside(file, end, elements));
  file.clear();
  file.seekp(0, std::ios::end);
  file.write(reinterpret_cast<const char*>(elements.data()), std::streamsize(count * sizeof(FileRange)));
  file.write(reinterpret_cast<const char*>(&count), sizeof count);
  file.write(reinterpret_cast<const char*>(&crc), sizeof crc);
  file.write(kMagic, sizeof kMagic);
  file.flush();
  if (!file)
    throw core::Error(
        {.where = path.string(), .got = "cannot write the end of the file", .remedy = "is the disk full?"});
}

void check_seal(const std::filesystem::path& path) {
  auto refuse = [&](std::string got) {
    throw core::Error({.where = path.string(),
                       .expected = "a whole file written by basis",
                       .got = std::move(got),
                       .remedy = "its writing was cut short, it is damaged, or another program wrote it",
                       .code = core::ExitCode::bad_file});
  };
  std::ifstream file(path, std::ios::binary);
  file.seekg(0, std::ios::end);
  auto size = uint64_t(file.tellg());
  if (!file || size < kTail) refuse("a file without its seal");
  char tail[kTail];
  file.seekg(std::streamoff(size - kTail));
  file.read(tail, kTail);
  uint64_t count;
  uint32_t stored;
  std::memcpy(&count, tail, sizeof count);
  std::memcpy(&stored, tail + 8, sizeof stored);
  if (!file || std::memcmp(tail + 12, kMagic, sizeof kMagic) != 0) refuse("a file without its seal");
  if (count > (size - kTail) / sizeof(FileRange)) refuse("a damaged seal");
  std::vector<FileRange> ranges(count);
  uint64_t end = size - kTail - count * sizeof(FileRange);
  file.seekg(std::streamoff(end));
  file.read(reinterpret_cast<char*>(ranges.data()), std::streamsize(count * sizeof(FileRange)));
  if (!file || !ascending_within(ranges, end)) refuse("a damaged seal");
  uint32_t found = checksum_of(ranges, count, checksum_outside(file, end, ranges));
  if (found != stored) refuse(fmt::format("checksum {:08x} where its seal says {:08x}", found, stored));
}

}  // namespace basis::trainers
