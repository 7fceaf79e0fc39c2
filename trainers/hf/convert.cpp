#include "trainers/hf/convert.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>

#include "core/log.h"
#include "core/rng.h"
#include "trainers/checkpoint.h"
#include "trainers/data/bpe_json.h"
#include "trainers/hdf5.h"
#include "trainers/hf/directory.h"
#include "trainers/hf/form.h"
#include "trainers/run/files.h"
#include "trainers/run/run_directory.h"
#include "trainers/session.h"

namespace basis::trainers::hf {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using nlohmann::ordered_json;

constexpr const char* kSideFiles = "huggingface";  // of a run directory: config.json and tokenizer files

struct Source {
  bool hugging_face = false;
  configs::Config config;
  std::unique_ptr<models::Model> model;
  TokenizerPtr tokenizer;
  ordered_json base;         // config.json, or null
  fs::path side_files;       // where tokenizer files lie; may be empty
  DType dtype = DType::f32;  // of the stored weights
  TensorReport tensors;
};

// A directory under a temporary name beside its destination; removed unless published.
class Staging {
 public:
  explicit Staging(const fs::path& destination) : destination_(fs::absolute(destination).lexically_normal()) {
    if (!destination_.has_filename()) destination_ = destination_.parent_path();
    std::error_code error;
    if (fs::exists(destination_, error) &&
        !(fs::is_directory(destination_, error) && fs::is_empty(destination_, error)))
      throw core::Error({.where = destination.string(),
                         .expected = "a new or empty directory",
                         .got = "one with files in it",
                         .remedy = "give another name, or remove it",
                         .code = core::ExitCode::usage});
    fs::create_directories(destination_.parent_path(), error);
    path_ = destination_.parent_path() / fmt::format(".{}.tmp-{}", destination_.filename().string(), ::getpid());
    if (error || !fs::create_directory(path_, error)) throw os_error(path_, "create the directory", error.value());
  }
  ~Staging() {
    std::error_code ignored;
    if (!published_) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  const fs::path& destination() const { return destination_; }
  void publish() {
    std::error_code error;
    fs::rename(path_, destination_, error);  // replaces an empty directory
    if (error) throw os_error(destination_, "rename the finished directory", error.value());
    published_ = true;
  }

 private:
  fs::path destination_, path_;
  bool published_ = false;
};

Source open_hugging_face(const fs::path& path) {
  Directory d = read_directory(path);
  Source s;
  s.hugging_face = true;
  s.config.model = d.model_config;
  s.model = std::move(d.model);
  s.tokenizer = std::move(d.tokenizer);
  s.base = std::move(d.config);
  s.side_files = path;
  s.dtype = d.dtype;
  s.tensors = std::move(d.tensors);
  return s;
}

Source open_basis(const fs::path& path) {
  fs::path file = resolve_checkpoint(path);
  Loaded loaded = load_model(file.string(), {"run.device=cpu"});
  Source s;
  s.config = loaded.config;
  s.config.model = loaded.model->config();
  s.model = std::move(loaded.model);
  s.tokenizer = std::move(loaded.tokenizer);
  s.dtype = dtype_of(Hdf5File::open(file).info("/model/tokens").type);
  fs::path run = file.parent_path().parent_path(), side = run / kSideFiles;
  std::error_code ignored;
  if (fs::is_directory(side, ignored)) s.side_files = side;
  if (fs::exists(side / "config.json", ignored))
    s.base = parse_json(read_file(side / "config.json"), (side / "config.json").string());
  return s;
}

// Returns the checkpoint's path.
fs::path write_basis(const Staging& staging, const Source& s, const models::Model& model, DType dtype) {
  RunDirectory directory(staging.path());
  configs::Config c = s.config;
  c.model = model.config();
  c.run.name = staging.destination().filename();
  c.run.out_dir = staging.destination().parent_path();
  c.train.init_from.clear();
  if (s.hugging_face) {
    c.data.val.clear();
    c.data.seq_len = c.model.max_seq_len;
    c.data.tokenizer = "checkpoint";
  }
  if (!s.side_files.empty()) {
    fs::create_directory(staging.path() / kSideFiles);
    copy_side_files(s.side_files, staging.path() / kSideFiles, true);
  }
  CheckpointState state;
  state.config = configs::dump_yaml(c);
  state.tokenizer = s.tokenizer ? s.tokenizer->serialise() : "";
  directory.write_config(state.config);
  save_checkpoint(directory.checkpoint(0), state, model, nullptr, dtype);
  return directory.checkpoint(0);
}

// The tokenizer of a run that never had Hugging Face's files.
void write_tokenizer(const fs::path& path, const Tokenizer& tokenizer) {
  nlohmann::json j = nlohmann::json::parse(tokenizer.serialise());
  if (tokenizer.type() == "bpe")
    save_gpt2_bpe(bpe_from_json(j, "tokenizer"), path);
  else if (tokenizer.type() == "wordpiece")
    write_file(path / "vocab.txt", j.at("vocab").get<std::string>());
  else
    core::log_warning("no tokenizer files are written: Hugging Face has no {} tokenizer", tokenizer.type());
}

void write_hugging_face(const Staging& staging, const Source& s, const models::Model& model, DType dtype) {
  write_directory(staging.path(), model, dtype, s.base);
  if (!s.side_files.empty())
    copy_side_files(s.side_files, staging.path(), false);
  else if (s.tokenizer)
    write_tokenizer(staging.path(), *s.tokenizer);
}

// Logits of fixed random tokens, [T * V].
std::vector<double> random_logits(const models::Model& model) {
  const configs::ModelConfig& c = model.config();
  int64_t T = std::min<int64_t>(c.max_seq_len, 64);
  core::HostRandom random(1, 0);
  std::vector<int32_t> ids(static_cast<size_t>(T));
  for (int32_t& id : ids) id = int32_t(random.uniform() * double(c.vocab_size));
  autograd::NoGrad no_grad;
  models::Pass pass{.compute = model.parameters().at(0).var.dtype()};
  return model.logits(pass, Tensor::from(ids, {1, T})).value().to_vector<double>();
}

// Of the logits' range: exact arithmetic would leave 0; rounding the weights does not.
double tolerance_of(DType dtype) { return dtype == DType::f16 ? 2e-2 : dtype == DType::bf16 ? 1e-1 : 2e-4; }

ordered_json compare_logits(const std::vector<double>& before, const std::vector<double>& after, DType dtype) {
  double difference = 0, low = before[0], high = before[0];
  for (size_t i = 0; i < before.size(); ++i) {
    double d = std::abs(before[i] - after[i]);
    difference = d > difference || std::isnan(d) ? d : difference;
    low = std::min(low, before[i]), high = std::max(high, before[i]);
  }
  double tolerance = tolerance_of(dtype) * (high - low);
  return {{"max_difference", difference},
          {"range", high - low},
          {"tolerance", tolerance},
          {"pass", difference <= tolerance}};
}

ordered_json size_of_model(const models::Model& model, DType dtype) {
  return {{"parameters", model.parameter_count()}, {"bytes", model.parameter_count() * size_of(dtype)}};
}

ordered_json tensor_json(const TensorReport& t) {
  return {{"unexpected", t.unexpected}, {"buffers", t.buffers}, {"ties", t.ties}};
}

bool to_basis(const ConvertOptions& o, const Source& s) {
  bool special = !o.projector.empty() && o.projector != "dense";
  bool basis = o.to.empty() ? s.hugging_face || special : o.to == "basis";
  if (!basis && special)
    throw core::Error({.where = "--projector " + o.projector,
                       .expected = "--to basis",
                       .got = "--to hf",
                       .remedy = "Hugging Face has no such attention; dense weights are written there",
                       .code = core::ExitCode::usage});
  return basis;
}

Source open_source(const fs::path& path) {
  std::error_code ignored;
  if (is_hugging_face(path)) return open_hugging_face(path);
  if (!fs::exists(path, ignored))
    throw bad_file(path.string(), "a Hugging Face directory, a run directory or a checkpoint", "nothing there");
  if (fs::exists(path / "model.safetensors", ignored) || fs::exists(path / "model.safetensors.index.json", ignored))
    throw bad_file(path.string(), "config.json beside the weights", "none");
  return open_basis(path);
}

}  // namespace

ordered_json convert(const ConvertOptions& o) {
  auto start = std::chrono::steady_clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  Staging staging(o.destination);
  Source s = open_source(o.source);
  DType dtype = o.dtype.empty() ? s.dtype : core::parse_dtype(o.dtype);
  bool basis = to_basis(o, s);
  ordered_json report = {{"source", o.source.string()},  {"destination", o.destination.string()},
                         {"to", basis ? "basis" : "hf"}, {"family", s.config.model.family},
                         {"dtype", name_of(dtype)},      {"before", size_of_model(*s.model, s.dtype)}};
  std::vector<double> before;
  if (o.verify) before = random_logits(*s.model);
  report["seconds_read"] = seconds();
  Reformed reformed = change_form(o, basis, std::move(s.model), s.tokenizer, report);
  const models::Model& model = *reformed.model;
  report["seconds_transform"] = seconds() - report["seconds_read"].get<double>();
  report["after"] = size_of_model(model, dtype);
  if (o.verify && reformed.approximation) {  // from here on nothing more may change
    std::vector<double> changed = random_logits(*reformed.approximation);
    report["approximation"] = compare_logits(before, changed, dtype);
    before = std::move(changed);
  }
  report["tensors"] = tensor_json(s.tensors);
  fs::path written = staging.path();
  double transformed = seconds();
  if (basis)
    written = write_basis(staging, s, model, dtype);
  else
    write_hugging_face(staging, s, model, dtype);
  report["seconds_write"] = seconds() - transformed;
  if (o.verify) {
    auto again = basis ? load_model(written.string(), {"run.device=cpu"}).model : read_directory(written).model;
    report["verification"] = compare_logits(before, random_logits(*again), dtype);
    if (!report["verification"]["pass"].get<bool>())
      throw core::Error(
          {.where = "verification on random tokens",
           .expected = fmt::format("logits within {:.3g}", report["verification"]["tolerance"].get<double>()),
           .got = fmt::format("a difference of {:.3g}", report["verification"]["max_difference"].get<double>()),
           .code = core::ExitCode::mismatch});
  }
  staging.publish();
  report["seconds"] = seconds();
  return report;
}

}  // namespace basis::trainers::hf
