#include "trainers/checkpoint.h"

#include <algorithm>

#include "core/log.h"
#include "trainers/hdf5.h"
#include "trainers/run/files.h"
#include "trainers/run/run_directory.h"

namespace basis::trainers {
namespace {

namespace fs = std::filesystem;
constexpr const char* kFormat = "basis-checkpoint";
constexpr int64_t kVersion = 1;

void write_tensor(Hdf5File& file, const std::string& name, const Tensor& tensor) {
  Tensor host = tensor.to(core::cpu).contiguous();
  if (tensor.device().is_cuda()) core::synchronize(tensor.device());
  std::vector<int64_t> shape(host.shape().begin(), host.shape().end());
  file.write(name, element_of(host.dtype()), shape, host.raw());
}

// Reads a dataset that must have `like`'s shape, converted to its dtype and device.
Tensor read_tensor(const Hdf5File& file, const std::string& name, const Tensor& like) {
  DatasetInfo info = file.info(name);
  core::Shape shape;
  for (int64_t e : info.shape) {
    if (shape.dim() == core::Shape::kMaxDim) break;
    shape.push_back(e);
  }
  if (!(shape == like.shape()) || info.shape.size() != size_t(like.dim()))
    throw core::Error({.where = file.path().string() + ": " + name,
                       .expected = like.shape().str(),
                       .got = shape.str(),
                       .remedy = "the checkpoint belongs to another model configuration",
                       .code = core::ExitCode::bad_file});
  Tensor host = Tensor::empty(shape, dtype_of(info.type));
  file.read(name, info.type, host.raw(), host.bytes());
  return host.to(like.dtype()).to(like.device());
}

void require_dataset(const Hdf5File& file, const std::string& name) {
  if (!file.is_dataset(name))
    throw core::Error({.where = file.path().string(),
                       .expected = "dataset " + name,
                       .got = "none",
                       .remedy = "the checkpoint belongs to another model configuration, or train.frozen has changed",
                       .code = core::ExitCode::bad_file});
}

CheckpointState read_state(const Hdf5File& file) {
  if (!file.has_attribute("/", "format") || file.get_string("/", "format") != kFormat)
    throw core::Error({.where = file.path().string(),
                       .expected = "a Basis checkpoint",
                       .got = "another HDF5 file",
                       .code = core::ExitCode::bad_file});
  if (int64_t v = file.get_int("/", "version"); v != kVersion)
    throw core::Error({.where = file.path().string(),
                       .expected = "checkpoint version 1",
                       .got = std::to_string(v),
                       .code = core::ExitCode::bad_file});
  CheckpointState s;
  s.step = file.get_int("/", "step");
  s.config = file.get_string("/", "config");
  s.tokenizer = file.get_string("/", "tokenizer");
  s.best_val_loss = file.get_double("/", "best_val_loss");
  if (s.step < 0)
    throw core::Error({.where = file.path().string(),
                       .expected = "step >= 0",
                       .got = std::to_string(s.step),
                       .code = core::ExitCode::bad_file});
  return s;
}

void write_pace(Hdf5File& file, const std::string& name, const models::Pace& pace) {
  if (pace.rate != 1) file.set(name, "rate", pace.rate);
  if (pace.decay != 1) file.set(name, "decay", pace.decay);
}

models::Pace read_pace(const Hdf5File& file, const std::string& name) {
  auto get = [&](const char* key) {
    double x = file.has_attribute(name, key) ? file.get_double(name, key) : 1;
    if (x >= 0 && x < 1e9) return x;
    throw core::Error({.where = file.path().string() + ": " + name + ", attribute " + key,
                       .expected = "a factor from 0 to 1e9",
                       .got = std::to_string(x),
                       .code = core::ExitCode::bad_file});
  };
  return {get("rate"), get("decay")};
}

// Every dataset below `group` is read once, which compares its checksum.
void verify(const Hdf5File& file, const std::string& group) {
  for (const std::string& name : file.list(group)) {
    std::string path = group == "/" ? "/" + name : group + "/" + name;
    if (!file.is_dataset(path)) {
      verify(file, path);
      continue;
    }
    DatasetInfo info = file.info(path);
    std::vector<char> bytes(size_t(info.bytes));
    file.read(path, info.type, bytes.data(), info.bytes);
  }
}

}  // namespace

void save_checkpoint(const fs::path& path, const CheckpointState& state, const models::Module& model,
                     Optimizer* optimizer, std::optional<core::DType> weights) {
  write_then_replace(path, [&](const fs::path& temporary) {
    Hdf5File file = Hdf5File::create(temporary);
    file.set("/", "format", kFormat);
    file.set("/", "version", kVersion);
    file.set("/", "step", state.step);
    file.set("/", "config", state.config);
    file.set("/", "tokenizer", state.tokenizer);
    file.set("/", "best_val_loss", state.best_val_loss);
    for (const models::Parameter& p : model.parameters()) {
      write_tensor(file, "/model/" + p.path,
                   p.var.value().to(p.buffer ? p.var.dtype() : weights.value_or(p.var.dtype())));
      write_pace(file, "/model/" + p.path, *p.pace);
    }
    if (optimizer) {
      for (const Optimizer::Slot& s : optimizer->slots()) {
        write_tensor(file, "/optimizer/first/" + s.path, s.first);
        if (s.second) write_tensor(file, "/optimizer/second/" + s.path, s.second);
      }
      write_tensor(file, "/optimizer/scalars", optimizer->scalars());
    }
    file.close();
  });
}

CheckpointState read_checkpoint_state(const fs::path& path) { return read_state(Hdf5File::open(path)); }

CheckpointState load_checkpoint(const fs::path& path, models::Module& model, Optimizer* optimizer) {
  Hdf5File file = Hdf5File::open(path);
  CheckpointState state = read_state(file);
  std::vector<std::pair<models::Var, Tensor>> values;
  std::vector<std::pair<std::shared_ptr<models::Pace>, models::Pace>> paces;
  for (models::Parameter& p : model.parameters()) {
    if (p.init.late && !optimizer && !file.exists("/model/" + p.path)) {
      values.emplace_back(p.var, Tensor::zeros(p.var.shape(), p.var.dtype(), p.var.device()));
      continue;
    }
    require_dataset(file, "/model/" + p.path);
    values.emplace_back(p.var, read_tensor(file, "/model/" + p.path, p.var.value()));
    paces.emplace_back(p.pace, read_pace(file, "/model/" + p.path));
  }
  std::vector<std::pair<Tensor, Tensor>> moments;
  if (optimizer) {
    for (const Optimizer::Slot& s : optimizer->slots()) {
      require_dataset(file, "/optimizer/first/" + s.path);
      moments.emplace_back(s.first, read_tensor(file, "/optimizer/first/" + s.path, s.first));
      if (!s.second) continue;
      require_dataset(file, "/optimizer/second/" + s.path);
      moments.emplace_back(s.second, read_tensor(file, "/optimizer/second/" + s.path, s.second));
    }
    require_dataset(file, "/optimizer/scalars");
    moments.emplace_back(optimizer->scalars(), read_tensor(file, "/optimizer/scalars", optimizer->scalars()));
  }
  for (auto& [var, value] : values) var.set_value(value);
  for (auto& [pace, value] : paces) *pace = value;
  for (auto& [target, value] : moments) target.copy_from(value);
  return state;
}

std::optional<fs::path> newest_valid_checkpoint(const fs::path& run_directory) {
  std::vector<CheckpointFile> files = checkpoint_files(run_directory);
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  for (const CheckpointFile& f : files) {
    try {
      Hdf5File file = Hdf5File::open(f.path);
      read_state(file);
      verify(file, "/");
      return f.path;
    } catch (const core::Error& e) {
      core::log_warning("passing over a damaged checkpoint: {}", e.what());
    }
  }
  return {};
}

fs::path resolve_checkpoint(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  if (auto newest = newest_valid_checkpoint(path)) return *newest;
  throw core::Error({.where = path.string(),
                     .expected = "a run directory with a checkpoint",
                     .got = "none that can be read",
                     .code = core::ExitCode::bad_file});
}

}  // namespace basis::trainers
