#include "trainers/hf/tensor_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "trainers/data/bpe_json.h"
#include "trainers/run/files.h"

namespace basis::trainers::hf {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// A shard lies beside its index: no directories, nothing hidden.
void require_plain_name(const std::string& file, const fs::path& index) {
  if (file.empty() || file.front() == '.' || file.find_first_of("/\\") != std::string::npos ||
      file.find('\0') != std::string::npos)
    throw bad_file(index, "file names beside the index", "'" + file + "'");
}

std::map<std::string, std::string> weight_map(const fs::path& index) {
  json j = parse_json(read_file(index), index.string());
  if (!j.is_object() || !j.contains("weight_map") || !j["weight_map"].is_object() || j["weight_map"].empty())
    throw bad_file(index, "{\"weight_map\": {tensor: file}}", "something else");
  std::map<std::string, std::string> map;
  for (const auto& [tensor, file] : j["weight_map"].items()) {
    if (!file.is_string()) throw bad_file(index, "a file name for " + tensor, file.dump());
    require_plain_name(file.get<std::string>(), index);
    map.emplace(tensor, file.get<std::string>());
  }
  return map;
}

}  // namespace

TensorFiles::TensorFiles(const fs::path& path) : path_(path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored) && fs::exists(path / kIndex, ignored)) {
    open_shards(path / kIndex);
    return;
  }
  fs::path single = fs::is_directory(path, ignored) ? path / kSingle : path;
  if (!fs::exists(single, ignored))
    throw bad_file(path, fmt::format("{} or {}", kSingle, kIndex), "neither",
                   "weights in pytorch_model.bin are not read: save them with safe_serialization=True");
  auto& file = files_[single.filename()] = std::make_unique<SafetensorsFile>(single);
  for (const auto& [tensor, entry] : file->header().tensors) owner_[tensor] = file.get();
}

void TensorFiles::open_shards(const fs::path& index) {
  auto map = weight_map(index);
  for (const auto& [tensor, file] : map) {
    auto& open = files_[file];
    if (!open) {
      std::error_code ignored;
      if (!fs::exists(path_ / file, ignored))
        throw bad_file(index, fmt::format("the shard {} that holds {}", file, tensor), "no such file",
                       "the download is not complete");
      open = std::make_unique<SafetensorsFile>(path_ / file);
    }
    if (!open->header().tensors.contains(tensor))
      throw bad_file(index, fmt::format("{} in {}", tensor, file), "a shard without it");
    owner_[tensor] = open.get();
  }
  for (const auto& [name, file] : files_)
    for (const auto& [tensor, entry] : file->header().tensors)
      if (auto it = map.find(tensor); it == map.end() || it->second != name)
        throw bad_file(index, fmt::format("{} of {} in the index", tensor, name),
                       it == map.end() ? "no entry" : "an entry for " + it->second);
}

std::vector<std::string> TensorFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [tensor, file] : owner_) names.push_back(tensor);
  return names;
}

const SafetensorsFile& TensorFiles::file_of(const std::string& tensor) const {
  auto it = owner_.find(tensor);
  if (it == owner_.end()) throw bad_file(path_, "the tensor " + tensor, "none of that name");
  return *it->second;
}

const SafetensorsEntry& TensorFiles::info(const std::string& tensor) const {
  return file_of(tensor).header().tensors.at(tensor);
}

core::Tensor TensorFiles::read(const std::string& tensor) const { return file_of(tensor).read(tensor); }

int64_t TensorFiles::bytes() const {
  int64_t bytes = 0;
  for (const auto& [tensor, file] : owner_) bytes += file->header().tensors.at(tensor).bytes;
  return bytes;
}

void write_tensor_files(const fs::path& directory, const NamedTensors& tensors, int64_t shard_bytes) {
  std::vector<NamedTensors> shards(1);
  int64_t total = 0, held = 0;
  for (const auto& t : tensors) {
    if (held && held + t.second.bytes() > shard_bytes) shards.emplace_back(), held = 0;
    shards.back().push_back(t);
    held += t.second.bytes(), total += t.second.bytes();
  }
  if (shards.size() == 1) return write_safetensors(directory / kSingle, tensors);
  json index = {{"metadata", {{"total_size", total}}}, {"weight_map", json::object()}};
  for (size_t i = 0; i < shards.size(); ++i) {
    std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(directory / file, shards[i]);
    for (const auto& [name, tensor] : shards[i]) index["weight_map"][name] = file;
  }
  write_file(directory / kIndex, index.dump(2) + "\n");
}

}  // namespace basis::trainers::hf
