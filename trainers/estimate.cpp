#include "trainers/estimate.h"

#include <fmt/format.h>

#include "core/log.h"
#include "core/parallel.h"
#include "trainers/optim/groups.h"
#include "trainers/run/numbers.h"
#include "trainers/session.h"

namespace basis::trainers {
namespace {

constexpr double kGiB = double(1 << 30);
constexpr double kOperationsPerSecond = 50e9;  // of one CPU core in a training step, roughly (BENCHMARKS.md)

}  // namespace

StepEstimate estimate_step(const configs::Config& c, const models::Model& model) {
  StepEstimate e;
  e.parameters = model.parameter_count(), e.trained = trainable_count(model.parameters());
  bool half = c.train.precision == "bf16" || c.train.precision == "f16";
  double master = double(core::size_of(parameter_dtype(c))), size = half ? 2 : master;
  double moments = c.optimizer.type == "adamw" ? 2 : 1;
  e.state_bytes = (double(e.parameters) + double(e.trained) * (1 + moments)) * master;
  if (half) e.state_bytes += double(e.parameters) * 2;

  int64_t micro = c.train.micro_batch ? c.train.micro_batch : c.train.global_batch, tokens = micro * c.data.seq_len;
  int64_t wide = c.model.d_ff ? c.model.d_ff : 4 * c.model.d_model;
  bool gpu = c.run.device != "cpu" && (c.run.device == "cuda" || core::device_count(core::DeviceType::cuda) > 0);
  // Per layer and token: norms, sums, q, k, v, o and branches (about 10 C), the MLP's hidden layer twice; logits once.
  double layer = double(tokens) * double(10 * c.model.d_model + 2 * wide) * size, layers = double(c.model.n_layer);
  double kept = double(tokens) * 2 * double(c.model.d_model) * size;  // of a layer that runs again in backward
  e.activation_bytes = (c.train.recompute == "block" ? layer + layers * kept : layers * layer) +
                       double(models::logit_bytes(c.model, tokens, core::parse_dtype(c.train.precision), gpu));
  e.operations = 6 * double(e.parameters) * double(c.train.global_batch) * double(c.data.seq_len);
  return e;
}

void check_estimate(const StepEstimate& e, core::Device device) {
  if (!device.is_cpu()) return;
  double have = double(core::backend(device.type).total_memory(0)), need = e.state_bytes + e.activation_bytes;
  if (e.state_bytes > have)
    throw core::Error({.where = "memory",
                       .expected = fmt::format("a model that fits this machine's {:.1f} GiB", have / kGiB),
                       .got = fmt::format("{:.1f} GiB of weights, gradients and moments", e.state_bytes / kGiB),
                       .remedy = "lower model.n_layer, model.d_model or model.vocab_size"});
  if (need > have)
    core::log_warning(
        "a step may take {:.1f} GiB, this machine has {:.1f} GiB (lower train.micro_batch, or train.recompute=block)",
        need / kGiB, have / kGiB);
  double seconds = e.operations / (kOperationsPerSecond * omp_get_max_threads());
  if (seconds > 60)
    core::log_warning("a model of {} parameters takes about {} a step on this CPU", format_count(double(e.parameters)),
                      format_duration(seconds));
}

}  // namespace basis::trainers
