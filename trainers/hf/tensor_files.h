// The tensors of a Hugging Face directory: model.safetensors, or the shards that model.safetensors.index.json names.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "trainers/hf/safetensors.h"

namespace basis::trainers::hf {

class TensorFiles {
 public:
  // A directory, or one .safetensors file. core::Error (bad_file): neither file is there, a shard that the index names
  // is absent, the index names a tensor that its shard does not hold, or a shard holds one that the index leaves out.
  explicit TensorFiles(const std::filesystem::path& path);

  std::vector<std::string> names() const;  // sorted
  bool has(const std::string& tensor) const { return owner_.contains(tensor); }
  const SafetensorsEntry& info(const std::string& tensor) const;
  core::Tensor read(const std::string& tensor) const;  // its own dtype, copied
  int64_t bytes() const;                               // of all tensors

 private:
  void open_shards(const std::filesystem::path& index);
  const SafetensorsFile& file_of(const std::string& tensor) const;

  std::filesystem::path path_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;  // by file name
  std::map<std::string, const SafetensorsFile*> owner_;            // by tensor
};

// Writes model.safetensors, or shards of at most `shard_bytes` with their index, into the directory.
void write_tensor_files(const std::filesystem::path& directory, const NamedTensors& tensors,
                        int64_t shard_bytes = int64_t{5} << 30);

}  // namespace basis::trainers::hf
