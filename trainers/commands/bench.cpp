// basis bench: attention, projection and training-step times on this machine, as a table or as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "ops/fused_attention/fused_attention.h"
#include "ops/linear/linear.h"
#include "ops/naive_attention/naive_attention.h"
#include "trainers/comm/launch.h"
#include "trainers/commands/bench_allreduce.h"
#include "trainers/commands/bench_bd.h"
#include "trainers/commands/bench_conv.h"
#include "trainers/commands/bench_conv_gradient.h"
#include "trainers/commands/bench_decompose.h"
#include "trainers/commands/bench_step.h"
#include "trainers/commands/bench_timing.h"
#include "trainers/commands/commands.h"
#include "trainers/session.h"
#include "trainers/step.h"

namespace basis::trainers {
namespace {

using core::DType;
using models::Var;
using Json = nlohmann::ordered_json;

struct Options {
  std::string what, device = "auto", dtype = "f32", config;
  std::vector<std::string> overrides;
  int64_t batch = 8, seq = 256, heads = 4, head_dim = 32, layers = 4, vocab = 256, repeats = 20;
  bool json = false, deterministic = false, own = false, no_graph = false, no_kernels = false;
  double peak = 0;
  ConvBench conv;
  DecomposeBench decompose;
  std::vector<int64_t> bytes = AllReduceBench().bytes;
  int gpus = 0, ranks = 0;
  std::string backend = "auto";
};

Json row(const std::string& name, const Timing& t, double forward_flops) {
  return {{"name", name},
          {"forward_ms", t.forward * 1e3},
          {"forward_backward_ms", t.both * 1e3},
          {"forward_gflops", forward_flops / t.forward * 1e-9},
          {"forward_backward_gflops", 3 * forward_flops / t.both * 1e-9}};
}

Json attention(const Options& o, core::Device device) {
  core::Shape shape{o.batch, o.seq, o.heads, o.head_dim};
  DType dtype = core::parse_dtype(o.dtype);
  Var q = random_var(shape, dtype, device, 1), k = random_var(shape, dtype, device, 2),
      v = random_var(shape, dtype, device, 3);
  double flops = 2.0 * double(o.batch * o.heads * o.seq * o.seq * o.head_dim);  // two products, half of each masked
  Json rows = Json::array();
  rows.push_back(
      row("fused", time_op(device, o.repeats, {q, k, v}, [&] { return ops::fused_attention(q, k, v); }), flops));
  if (o.seq <= 1024 && o.batch * o.heads * o.seq * o.seq <= int64_t{1} << 27)  // it holds them all
    rows.push_back(
        row("naive", time_op(device, o.repeats, {q, k, v}, [&] { return ops::naive_attention(q, k, v); }), flops));
  return rows;
}

Json projection(const Options& o, core::Device device) {
  int64_t d = o.heads * o.head_dim, m = o.batch * o.seq;
  DType dtype = core::parse_dtype(o.dtype);
  Var x = random_var({m, d}, dtype, device, 1), w = random_var({d, d}, dtype, device, 2);
  return Json::array(
      {row("dense", time_op(device, o.repeats, {x, w}, [&] { return ops::linear(x, w); }), 2.0 * double(m * d * d))});
}

// The model, batch and precision of a training step: a config's, or a GPT of the sizes given.
configs::Config step_config(const Options& o) {
  if (!o.config.empty()) return configs::load_config(o.config, o.overrides);
  configs::Config c;
  c.model.n_layer = o.layers, c.model.n_head = o.heads, c.model.d_model = o.heads * o.head_dim;
  c.model.vocab_size = o.vocab, c.model.max_seq_len = o.seq, c.model.bias = false;
  c.train.micro_batch = o.batch, c.data.seq_len = o.seq, c.train.precision = o.dtype;
  return c;
}

void run(const Options& o) {
  core::Device device = choose_device(o.device);
  core::set_deterministic(o.deterministic);
  if (o.own) ops::set_attention_engine(nullptr);
  if (o.what == "bd") return bench_bd({.repeats = o.repeats, .json = o.json}, device, core::parse_dtype(o.dtype));
  if (o.what == "conv") {
    ConvBench conv = o.conv;
    conv.batch = o.batch, conv.heads = o.heads, conv.head_dim = o.head_dim, conv.repeats = o.repeats,
    conv.json = o.json;
    return bench_conv(conv, device, core::parse_dtype(o.dtype));
  }
  Json rows = o.what == "attention"    ? attention(o, device)
              : o.what == "projection" ? projection(o, device)
                                       : bench_step({.config = step_config(o),
                                                     .repeats = o.repeats,
                                                     .graph = !o.no_graph,
                                                     .kernels = !o.no_kernels,
                                                     .peak_tflops = o.peak},
                                                    device);
  Json all{{"bench", o.what}, {"device", name_of(device)}, {"dtype", o.dtype},       {"batch", o.batch},
           {"seq", o.seq},    {"heads", o.heads},          {"head_dim", o.head_dim}, {"rows", rows}};
  if (o.json) return fmt::print("{}\n", all.dump(1));
  fmt::print("{} on {}/{}, batch {}, {} tokens, {} heads x {}; medians of {}\n", o.what, name_of(device), o.dtype,
             o.batch, o.seq, o.heads, o.head_dim, o.repeats);
  for (const auto& r : rows) {
    fmt::print("  {:<12}", r["name"].get<std::string>());
    for (const auto& [key, value] : r.items())
      if (value.is_number()) fmt::print("  {} {:.3f}", key, value.get<double>());
    fmt::print("\n{}", kernel_lines(r));
  }
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Times on this machine");
  command->add_option("what", o->what, "attention, bd, decompose, conv, conv_gradient, projection, step or allreduce")
      ->required()
      ->check(
          CLI::IsMember({"attention", "bd", "decompose", "conv", "conv_gradient", "projection", "step", "allreduce"}));
  command->add_option("--device", o->device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--dtype", o->dtype, "f32, bf16 or f16")
      ->check(CLI::IsMember({"f64", "f32", "bf16", "f16"}))
      ->capture_default_str();
  auto count = [&](const char* name, int64_t& value, const char* help) {
    command->add_option(name, value, help)->check(CLI::PositiveNumber)->capture_default_str();
  };
  count("--batch", o->batch, "Sequences");
  count("--seq", o->seq, "Tokens of a sequence");
  count("--heads", o->heads, "Attention heads");
  count("--head-dim", o->head_dim, "Channels of a head; d_model = heads x head_dim");
  count("--layers", o->layers, "Blocks (step)");
  count("--vocab", o->vocab, "Vocabulary (step)");
  count("--repeats", o->repeats, "Timed calls; the median is printed");
  count("--width", o->decompose.width, "decompose: channels");
  command->add_option("--config", o->config, "step: model, micro-batch, seq_len and precision of this YAML file");
  command->add_option("--set", o->overrides, "step: key.path=value over the file");
  command->add_option("--lengths", o->conv.lengths, "conv: tokens, several")->check(CLI::PositiveNumber);
  command->add_option("--segments", o->conv.segments, "conv: k, several")->check(CLI::PositiveNumber);
  command->add_option("--low-rank", o->conv.ranks, "conv: low-rank attention of so many features beside, several")
      ->check(CLI::PositiveNumber);
  command->add_option("--blocks", o->conv.blocks,
                      "conv: low-rank attention also under shifted blocks of so many tokens");
  command->add_option("--tile", o->conv.tile, "conv: positions of a tile, a power of two; 0: chosen");
  command->add_option("--window", o->conv.window, "conv: width scored exactly near the diagonal");
  command->add_option("--spread", o->conv.spread, "conv: standard deviation of the logits, in nats")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--fused-up-to", o->conv.fused_up_to, "conv: longest sequence for fused attention; 0: all");
  command->add_flag("--full", o->conv.full, "conv: bidirectional");
  command->add_flag("--kernels", o->conv.kernels, "conv: which kernels the time goes to, on a GPU");
  command->add_option("--svg", o->conv.svg, "conv, conv_gradient: file for a plot");
  command->add_flag("--deterministic", o->deterministic, "Only kernels that give the same bits every time");
  command->add_flag("--own-attention", o->own, "Our own fused attention where cuDNN would be taken");
  command->add_option("--bytes", o->bytes, "allreduce: sizes, several")->check(CLI::PositiveNumber);
  command->add_option("--backend", o->backend, "allreduce: nccl, mpi or tcp")
      ->check(CLI::IsMember({"auto", "nccl", "mpi", "tcp"}));
  command->add_option("--gpus", o->gpus, "allreduce: one process for each of so many GPUs")->check(CLI::PositiveNumber);
  command->add_option("--ranks", o->ranks, "allreduce: so many processes on the CPU")->check(CLI::PositiveNumber);
  command->add_flag("--no-graph", o->no_graph, "step: submitted anew each time, not recorded as a CUDA graph");
  command->add_flag("--no-kernels", o->no_kernels, "step: no list of what the time goes to");
  command->add_option("--peak-tflops", o->peak,
                      "step: what utilisation is measured against; 0: the device's, if known");
  command->add_flag("--json", o->json, "The result as JSON on stdout");
  command->callback([o, command, &exit_code] {
    if (o->what == "decompose") {  // the other benches' defaults are not its own
      auto take = [&](const char* name, int64_t& to, int64_t from) { to = command->count(name) ? from : to; };
      take("--layers", o->decompose.layers, o->layers), take("--heads", o->decompose.heads, o->heads);
      take("--head-dim", o->decompose.head_dim, o->head_dim);
      o->decompose.json = o->json, o->decompose.device = choose_device(o->device);
      return bench_decompose(o->decompose);
    }
    if (o->what == "conv_gradient")
      return bench_conv_gradient({.tokens = o->seq,
                                  .heads = o->heads,
                                  .head_dim = o->head_dim,
                                  .segments = command->count("--segments") ? o->conv.segments : std::vector<int64_t>(),
                                  .json = o->json,
                                  .svg = o->conv.svg},
                                 choose_device(o->device));
    if (o->what != "allreduce") return run(*o);
    if (int count = std::max(o->gpus, o->ranks); count > 0 && !is_local_rank()) {
      exit_code = run_local_ranks(count, o->gpus > 0, 60);
      return;
    }
    bench_allreduce({.device = o->ranks ? "cpu" : o->device,
                     .backend = o->backend,
                     .bytes = o->bytes,
                     .repeats = o->repeats,
                     .json = o->json});
  });
}

}  // namespace basis::trainers
