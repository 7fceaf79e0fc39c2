// Files for readers that want a path: in memory where the system has /dev/shm, named by process and thread of work.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace basis::fuzz {

inline std::filesystem::path scratch(const std::string& name) {
  static const std::filesystem::path folder = [] {
    std::filesystem::path base = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/tmp";
    base /= "basis-fuzz-" + std::to_string(getpid());
    std::filesystem::create_directories(base);
    return base;
  }();
  return folder / name;
}

inline std::filesystem::path write(const std::string& name, const uint8_t* data, size_t size) {
  std::filesystem::path path = scratch(name);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), std::streamsize(size));
  return path;
}

inline std::vector<uint8_t> read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A valid file with edits: each five bytes of `data` are an offset (little-endian, modulo the size) and the byte to put
// there; one left-over byte or more cuts the file short by their number, 16 bytes each.
inline std::vector<uint8_t> edited(std::vector<uint8_t> file, const uint8_t* data, size_t size) {
  for (; size >= 5; data += 5, size -= 5) {
    uint32_t offset = uint32_t(data[0]) | uint32_t(data[1]) << 8 | uint32_t(data[2]) << 16 | uint32_t(data[3]) << 24;
    file[offset % file.size()] = data[4];
  }
  file.resize(file.size() > size * 16 ? file.size() - size * 16 : 0);
  return file;
}

}  // namespace basis::fuzz
