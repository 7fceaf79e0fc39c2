// A Hugging Face directory (config.json, safetensors, tokenizer files) as a model, and a model as such a directory.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/model.h"
#include "trainers/data/tokenizer.h"
#include "trainers/hf/family.h"
#include "trainers/hf/tensor_files.h"

namespace basis::trainers::hf {

// What became of a directory's tensors.
struct TensorReport {
  std::vector<std::string> missing;     // the model needs them
  std::vector<std::string> unexpected;  // the model has no place for them (a pooler, another head)
  std::vector<std::string> buffers;     // hold nothing trained (masks, rotary frequencies)
  std::vector<std::string> ties;        // repeat another tensor
};

struct Directory {
  nlohmann::ordered_json config;  // config.json as it is
  configs::ModelConfig model_config;
  std::unique_ptr<models::Model> model;
  TokenizerPtr tokenizer;                // null when there are no tokenizer files
  core::DType dtype = core::DType::f32;  // of the weights as stored; the widest when they differ
  int64_t parameters = 0, bytes = 0;     // of the weights used, as stored
  TensorReport tensors;
};

bool is_hugging_face(const std::filesystem::path& path);  // it holds a config.json with a model_type

// Reads all of it; parameters on the CPU in `parameters`' dtype, f32 or f64. core::Error (bad_file) for what cannot be
// used: an unknown architecture, a missing tensor (all are named), a shape that does not fit the config.
Directory read_directory(const std::filesystem::path& path, core::DType parameters = core::DType::f32);

// Writes config.json and the weights in `dtype` into an existing directory; `base` is the config.json it came from, or
// null. The model must be dense. core::Error (usage) when Hugging Face has no such model.
void write_directory(const std::filesystem::path& path, const models::Model& model, core::DType dtype,
                     const nlohmann::ordered_json& base);

// config.json and the tokenizer's files, from one directory to another; those that exist.
void copy_side_files(const std::filesystem::path& from, const std::filesystem::path& to, bool with_config);

}  // namespace basis::trainers::hf
