// Checkpoints: one HDF5 file with weights, optimizer state and where the run stood. Independent of the number of ranks.
//
//   /                       attributes: format, version, step, config (resolved YAML), tokenizer (JSON), best_val_loss
//   /model/<path>           the parameters, f32 (f64 for f64 runs; bf16 or f16 as converted); attributes rate and decay
//                           where they are not 1 (models::Pace)
//   /optimizer/first/<path>, /optimizer/second/<path>, /optimizer/scalars
//
// Written under a temporary name, closed, fsynced, renamed: a kill leaves either the old state or the new one.
#pragma once

#include <filesystem>
#include <limits>
#include <optional>
#include <string>

#include "models/module.h"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {

struct CheckpointState {
  int64_t step = 0;  // optimizer steps done; names the data position and the random streams too
  std::string config, tokenizer;
  double best_val_loss = std::numeric_limits<double>::infinity();
};

// `weights`: the dtype parameters are stored in, if not their own.
void save_checkpoint(const std::filesystem::path& path, const CheckpointState& state, const models::Module& model,
                     Optimizer* optimizer, std::optional<core::DType> weights = {});

// Attributes only; core::Error (bad_file) when it is no Basis checkpoint.
CheckpointState read_checkpoint_state(const std::filesystem::path& path);

// Fills the model (and the optimizer when given). core::Error (bad_file) for a damaged file, or when names or shapes
// differ from the model's; the model is then untouched.
CheckpointState load_checkpoint(const std::filesystem::path& path, models::Module& model, Optimizer* optimizer);

// The newest checkpoint of a run directory that is whole (every checksum holds), newest first; warns about the others.
std::optional<std::filesystem::path> newest_valid_checkpoint(const std::filesystem::path& run_directory);

// A checkpoint file, or a run directory standing for its newest valid one. core::Error (bad_file) when there is none.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path);

}  // namespace basis::trainers
