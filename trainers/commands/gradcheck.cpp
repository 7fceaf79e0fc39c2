// basis gradcheck: the generated checks of every op, as a table or as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/gradcheck.h"
#include "core/text.h"
#include "ops/fused_attention/fused_attention.h"
#include "trainers/commands/commands.h"

namespace basis::trainers {
namespace {

using autograd::CheckResult;
using autograd::OpEntry;

struct Options {
  std::vector<std::string> ops;
  std::string device = "cpu", dtype;
  bool list = false, json = false, fastest = false, own = false;
};

std::vector<const OpEntry*> chosen(const std::vector<std::string>& names) {
  std::vector<const OpEntry*> ops;
  std::vector<std::string> known;
  for (const OpEntry& op : autograd::registry()) {
    known.push_back(op.name);
    if (names.empty() || std::find(names.begin(), names.end(), op.name) != names.end()) ops.push_back(&op);
  }
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw core::Error({.where = "--op",
                         .expected = "a registered op",
                         .got = name,
                         .remedy = "nearest: " + core::nearest(name, known) + "; --list shows all",
                         .code = core::ExitCode::usage});
  return ops;
}

autograd::CheckOptions check_options(const Options& o) {
  autograd::CheckOptions c;
  if (o.device == "cuda") {
    c.device = core::cuda();
    core::backend(core::DeviceType::cuda);  // a clear error when it is not built
    if (core::device_count(core::DeviceType::cuda) == 0)
      throw core::Error({.where = "--device cuda",
                         .expected = "a GPU",
                         .got = "none",
                         .remedy = "see basis doctor",
                         .code = core::ExitCode::usage});
  }
  c.dtype = core::parse_dtype(o.dtype.empty() ? (o.device == "cuda" ? "f32" : "f64") : o.dtype);
  return c;
}

nlohmann::json to_json(const std::vector<CheckResult>& results, int passed, int failed, int skipped) {
  nlohmann::json list = nlohmann::json::array();
  for (const CheckResult& r : results)
    list.push_back({{"op", r.op},
                    {"sample", r.sample},
                    {"check", r.check},
                    {"device", name_of(r.device)},
                    {"dtype", name_of(r.dtype)},
                    {"max_error", r.max_error},
                    {"tolerance", r.tolerance},
                    {"pass", r.pass},
                    {"skipped", r.skipped},
                    {"note", r.note}});
  return {{"results", list}, {"passed", passed}, {"failed", failed}, {"skipped", skipped}};
}

void print_table(const std::vector<CheckResult>& results) {
  struct Row {
    int checks = 0, failed = 0;
    double error = 0, tolerance = 0;
  };
  std::vector<std::string> order;
  std::map<std::string, Row> rows;
  for (const CheckResult& r : results) {
    if (!rows.count(r.op)) order.push_back(r.op);
    Row& row = rows[r.op];
    ++row.checks;
    row.failed += !r.pass;
    bool numeric = r.check == "differences" || r.check == "against_f64";
    if (numeric && r.max_error / r.tolerance >= row.error / std::max(row.tolerance, 1e-300))
      row.error = r.max_error, row.tolerance = r.tolerance;
  }
  fmt::print("{:<18} {:>6} {:>6}   {:>11}   {:>9}\n", "op", "checks", "failed", "worst error", "tolerance");
  for (const std::string& op : order) {
    const Row& r = rows[op];
    fmt::print("{:<18} {:>6} {:>6}   {:>11.2e}   {:>9.1e}\n", op, r.checks, r.failed, r.error, r.tolerance);
  }
  std::map<std::string, int> skipped;  // by check and reason
  for (const CheckResult& r : results)
    if (r.skipped) ++skipped[fmt::format("{} / {}: {}", r.op, r.check, r.note)];
  for (const auto& [what, times] : skipped) fmt::print("skipped {} ({} times)\n", what, times);
  for (const CheckResult& r : results)
    if (!r.pass)
      fmt::print("FAIL {} / {} / {}: {:.3e} > {:.1e} {}\n", r.op, r.sample, r.check, r.max_error, r.tolerance, r.note);
}

int run(const Options& o) {
  if (o.list) {
    for (const OpEntry& op : autograd::registry()) fmt::print("{}\n", op.name);
    return 0;
  }
  autograd::CheckOptions c = check_options(o);
  core::set_deterministic(!o.fastest);
  if (o.own) ops::set_attention_engine(nullptr);
  std::vector<CheckResult> results;
  for (const OpEntry* op : chosen(o.ops))
    for (CheckResult& r : autograd::check_op(*op, c)) results.push_back(std::move(r));
  auto count = [&](auto f) { return int(std::count_if(results.begin(), results.end(), f)); };
  int skipped = count([](const CheckResult& r) { return r.skipped; });
  int failed = count([](const CheckResult& r) { return !r.pass; });
  int passed = int(results.size()) - failed - skipped;
  if (o.json) {
    fmt::print("{}\n", to_json(results, passed, failed, skipped).dump(1));
  } else {
    print_table(results);
    fmt::print("{} passed, {} failed, {} skipped on {}/{}\n", passed, failed, skipped, name_of(c.device),
               name_of(c.dtype));
  }
  return failed ? int(core::ExitCode::mismatch) : 0;
}

}  // namespace

void add_gradcheck_command(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("gradcheck", "Prove every operation's backward pass");
  command->add_option("--op", o->ops, "Ops to check, separated by commas (default: all)")->delimiter(',');
  command->add_option("--device", o->device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--dtype", o->dtype, "f64, f32, bf16 or f16 (default: f64 on cpu, f32 on cuda)")
      ->check(CLI::IsMember({"f64", "f32", "bf16", "f16"}));
  command->add_flag("--list", o->list, "Print the names of the ops");
  command->add_flag("--own-attention", o->own, "Our own fused attention where cuDNN would be taken");
  command->add_flag("--fastest", o->fastest,
                    "Also kernels whose bits may differ between runs, as run.deterministic: false");
  command->add_flag("--json", o->json, "Results as JSON on stdout");
  command->callback([o, &exit_code] { exit_code = run(*o); });
}

}  // namespace basis::trainers
