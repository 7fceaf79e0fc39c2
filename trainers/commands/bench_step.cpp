#include "trainers/commands/bench_step.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "core/profile.h"
#include "trainers/commands/bench_timing.h"
#include "trainers/optim/optimizer.h"
#include "trainers/recorded_step.h"
#include "trainers/session.h"
#include "trainers/step.h"

namespace basis::trainers {
namespace {

using Json = nlohmann::ordered_json;
using core::DType;

// Multiply-adds of a training step count 2, backward twice the forward: 6 per parameter and token, and per layer
// 6 T C for each of the two products of attention, half of which a causal mask hides (Chowdhery et al., arXiv
// 2204.02311, appendix B).
double step_flops(const configs::ModelConfig& m, int64_t parameters, int64_t tokens, int64_t seq) {
  bool causal = m.family != "bert";
  return double(tokens) * (6.0 * double(parameters) + (causal ? 6.0 : 12.0) * double(m.n_layer * seq * m.d_model));
}

// What the manufacturer promises for dense products of 16-bit numbers, in TFLOP/s; 0: not known here.
double promised_tflops(core::Device device, DType dtype) {
  if (core::size_of(dtype) != 2) return 0;
  constexpr std::pair<std::string_view, double> known[] = {
      {"H200", 989.4}, {"H100 PCIe", 756}, {"H100", 989.4}, {"A100", 312}, {"L40S", 362}};
  std::string name = core::backend(device.type).describe(device.index);
  for (auto [part, tflops] : known)
    if (name.find(part) != std::string::npos) return tflops;
  return 0;
}

// Kinds of kernels by what their names hold, the first that fits.
struct Kind {
  std::string_view name;
  std::vector<std::string_view> parts;
};
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"attention", {"cudnn", "attention", "sdpa", "fmha", "flash", "ops::fused", "conv_basis"}},
      {"bd", {"bd_linear", "ops::bd"}},
      {"matrix products", {"gemm", "nvjet", "cutlass", "xmma", "splitK", "cublas"}},
      {"optimizer", {"basis::trainers"}},
      {"normalisation", {"ops::norm::"}},
      {"cross-entropy", {"chunk_kernel", "staged_kernel", "scale_kernel"}},
      {"embedding", {"token_kernel", "table_kernel", "position_kernel", "count_kernel", "cub::"}},
      {"pointwise", {"map_kernel", "value_kernel", "slope_kernel", "drop_kernel", "rope"}},
      {"bias gradients", {"ops::(anonymous namespace)::sum_kernel", "slices_kernel"}},
      {"sums, casts, copies", {"basis::core", "copy", "fill"}},
  };
  return all;
}

Json by_kind(const std::vector<core::KernelTime>& kernels) {
  Json result = Json::object(), names = Json::array();
  double sum = 0, idle = 0;
  int64_t launches = 0;
  auto add = [&](const std::string& kind, const core::KernelTime& k) {
    Json& entry = result[kind];
    entry["ms"] = (entry.is_object() ? entry.value("ms", 0.0) : 0.0) + k.seconds * 1e3;
    entry["launches"] = entry.value("launches", int64_t{0}) + k.launches;
    entry["idle_ms"] = entry.value("idle_ms", 0.0) + k.idle * 1e3;
  };
  for (const core::KernelTime& k : kernels) {
    std::string kind = "others";
    for (const Kind& c : kinds()) {
      bool fits = std::any_of(c.parts.begin(), c.parts.end(),
                              [&](std::string_view part) { return k.name.find(part) != std::string::npos; });
      if (!fits) continue;
      kind = c.name;
      break;
    }
    add(kind, k);
    sum += k.seconds, launches += k.launches, idle += k.idle;
    names.push_back({{"kind", kind},
                     {"name", k.name},
                     {"ms", k.seconds * 1e3},
                     {"launches", k.launches},
                     {"idle_ms", k.idle * 1e3}});
  }
  return {{"ms", sum * 1e3}, {"idle_ms", idle * 1e3}, {"launches", launches}, {"kinds", result}, {"names", names}};
}

// A model that trains on one batch of random tokens.
class Step {
 public:
  Step(const configs::Config& config, core::Device device)
      : c_(config), compute_(core::parse_dtype(config.train.precision)) {
    batch_ = c_.train.micro_batch ? c_.train.micro_batch : c_.train.global_batch, seq_ = c_.data.seq_len;
    if (c_.model.vocab_size == 0) c_.model.vocab_size = 256;
    model_ = models::make_model(c_.model);
    model_->initialize(1, device, parameter_dtype(c_));
    optimizer_ = std::make_unique<Optimizer>(c_.optimizer, model_->parameters(), c_.train.precision == "f16");
    if (core::size_of(compute_) == 2) optimizer_->keep_copies(compute_);
    optimizer_->set_rates(1e-4, c_.train.grad_clip);
    core::HostRandom r(1, 5);
    std::vector<int32_t> ids(size_t(batch_ * seq_));
    for (int32_t& id : ids) id = int32_t(r.bits() % uint32_t(c_.model.vocab_size));
    input_ = {Tensor::from(ids, {batch_, seq_}, device), Tensor::from(ids, {batch_ * seq_}, device)};
  }

  void operator()() {
    models::Pass pass{.training = true,
                      .compute = compute_,
                      .random = &generator_,
                      .recompute = c_.train.recompute == "block",
                      .copies = &optimizer_->copies()};
    forward_backward(*model_, pass, {input_}, tokens(), *optimizer_);
    optimizer_->update();
  }

  int64_t tokens() const { return batch_ * seq_; }
  int64_t parameters() const { return model_->parameter_count(); }
  double flops() const { return step_flops(c_.model, parameters(), tokens(), seq_); }
  DType compute() const { return compute_; }

 private:
  configs::Config c_;
  DType compute_;
  int64_t batch_, seq_;
  std::unique_ptr<models::Model> model_;
  std::unique_ptr<Optimizer> optimizer_;
  core::Generator generator_{1};
  MicroBatch input_;
};

// Seconds a step of many queued in a row, as training queues them. A GPU first works for a while, until its clock is
// the one that its power allows for good.
double steady_seconds(core::Device device, double seconds, int64_t repeats, const std::function<void()>& step) {
  auto queue = [&](int64_t steps) {
    return core::time_on(device,
                         [&] {
                           for (int64_t i = 0; i < steps; ++i) step();
                         }) /
           double(steps);
  };
  if (!device.is_cuda()) return queue(repeats);
  auto steps_of = [&](double s) { return int64_t(std::clamp(s / seconds, 1.0, 1000.0)); };
  queue(steps_of(1));
  return queue(steps_of(2));
}

}  // namespace

Json bench_step(const StepBench& b, core::Device device) {
  Step step(b.config, device);
  std::function<void()> work = [&step] { step(); };
  Json row{{"name", "train step"}};
  bool recorded = b.graph && device.is_cuda() && graph_recorder();
  Json kernels;
  for (int i = 0; i < RecordedStep::kWarmUp; ++i) work();
  core::reset_peak(device);
  if (recorded) work = graph_recorder()(device, work);
  double seconds = median_seconds(device, b.repeats, work);
  double in_a_row = steady_seconds(device, seconds, b.repeats, work);
  // Last: by then a GPU's clock is what it keeps up.
  if (b.kernels && device.is_cuda() && core::kernel_profiler())
    kernels = by_kind(core::kernel_profiler()(device, work));
  row["ms"] = seconds * 1e3;
  row["in_a_row_ms"] = in_a_row * 1e3;
  row["tokens_per_s"] = double(step.tokens()) / seconds;
  row["tflops"] = step.flops() / seconds * 1e-12;
  double peak = b.peak_tflops > 0 ? b.peak_tflops : device.is_cuda() ? promised_tflops(device, step.compute()) : 0;
  if (peak > 0) row["utilisation"] = step.flops() / seconds * 1e-12 / peak;
  row["parameters"] = step.parameters();
  row["peak_mib"] = double(core::memory_stats(device).peak) / 1048576;
  row["reserved_mib"] = double(core::memory_stats(device).reserved) / 1048576;
  row["recorded"] = recorded;
  if (!kernels.is_null()) row["kernels"] = kernels;
  return Json::array({row});
}

std::string kernel_lines(const Json& row) {
  if (!row.contains("kernels")) return "";
  const Json& k = row["kernels"];
  double all = k["ms"].get<double>(), step = row["ms"].get<double>();
  std::string text =
      fmt::format("  {} kernels take {:.2f} ms, with {:.2f} ms between one's end and the next one's begin:\n",
                  k["launches"].get<int64_t>(), all, k["idle_ms"].get<double>());
  std::vector<std::pair<double, std::string>> lines;
  for (const auto& [kind, entry] : k["kinds"].items())
    lines.emplace_back(entry["ms"].get<double>(),
                       fmt::format("  {:>9.3f} ms {:>5.1f} % {:>5} launches  {}\n", entry["ms"].get<double>(),
                                   100 * entry["ms"].get<double>() / all, entry["launches"].get<int64_t>(), kind));
  std::sort(lines.rbegin(), lines.rend());
  for (const auto& [ms, line] : lines) text += line;
  return text + fmt::format("  {:>9.3f} ms of the step without them\n", step - all);
}

}  // namespace basis::trainers
