// Safetensors files (https://github.com/huggingface/safetensors): eight bytes of header length (little-endian), a JSON
// header {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {text: text}}, then the tensors.
//
// Read: hostile input. The header's length, its JSON, every dtype, shape and span are checked against the file before
// anything is allocated; the spans must cover the data exactly, without overlap or hole, and no name may repeat.
// Every failure while reading is a core::Error with ExitCode::bad_file; while writing, ExitCode::runtime.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "trainers/data/files.h"

namespace basis::trainers::hf {

struct SafetensorsEntry {
  std::string dtype;           // as written: "F32", "BF16", "BOOL", ...
  std::vector<int64_t> shape;  // empty: a scalar
  int64_t offset = 0;          // of the first byte, from the start of the file
  int64_t bytes = 0;
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
};

// Checks the whole of `file`; `name` stands in error messages.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name);

// A memory-mapped file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::filesystem::path& path() const { return path_; }
  const SafetensorsHeader& header() const { return header_; }

  // The tensor in its own dtype, copied. core::Error (bad_file) for a name that is not there, a dtype that no Tensor
  // has (I8, I16, U32, U64, F8, complex) or more than six dimensions.
  core::Tensor read(const std::string& tensor) const;

 private:
  std::filesystem::path path_;
  MappedFile map_;
  SafetensorsHeader header_;
};

using NamedTensors = std::vector<std::pair<std::string, core::Tensor>>;

// Writes the tensors (f64, f32, bf16, f16 or integers) under a temporary name, fsyncs and renames: the file is whole or
// absent. Wide dtypes come first, then by name, so that every tensor is aligned to its dtype.
void write_safetensors(const std::filesystem::path& path, NamedTensors tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace basis::trainers::hf
