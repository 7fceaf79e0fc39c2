#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include "autograd/probe.h"
#include "core/basic/basic.h"

namespace basis::autograd {
namespace {

using Check = CheckResult (*)(const Probe&);

CheckResult verdict(double error, double tolerance, std::string note = {}) {
  CheckResult r;
  r.max_error = error;
  r.tolerance = tolerance;
  r.pass = error <= tolerance;  // false for NaN
  if (!r.pass) r.note = std::move(note);
  return r;
}

// (1) d/dh <u, f(x + h e)> for a random cotangent u, along coordinates and random directions, against <gradient, e>.
// Richardson's extrapolation of central differences with steps h and h/2: truncation O(h^4), rounding about eps / h.
CheckResult differences(const Probe& p) {
  Run base = p.run(p.inputs());
  double worst = 0, scale = base.gradient_norm();
  if (scale == 0) scale = 1;
  std::string where;
  for (size_t i = 0; i < p.sample.inputs.size(); ++i) {
    if (!p.differentiable(i)) continue;
    for (const Direction& e : p.directions(i)) {
      auto slope = [&](double h) { return (p.objective(i, e, h) - p.objective(i, e, -h)) / (2 * h); };
      double expected = (4 * slope(0.5e-3) - slope(1e-3)) / 3;
      double error = std::abs(expected - e.dot(base.gradients[i])) / std::max(scale, std::abs(expected));
      if (!(error <= worst)) worst = error, where = "input " + std::to_string(i) + " along " + e.name;
    }
  }
  return verdict(worst, kDifferenceTolerance, where);
}

// (2) Whichever inputs need a gradient, the gradients given are the same.
CheckResult subsets(const Probe& p) {
  Run all = p.run(p.inputs());
  size_t n = p.sample.inputs.size();
  int wrong = 0;
  for (uint32_t mask = 1; mask < (1u << n); ++mask) {
    Run some = p.run(p.inputs(), mask);
    for (size_t i = 0; i < n; ++i)
      if (p.differentiable(i) && (mask >> i & 1)) wrong += some.gradients[i] != all.gradients[i];
  }
  return verdict(wrong, 0, "gradients depend on which inputs need one");
}

// (3) Memory starts as NaN: an output element nobody wrote shows. (4) The bytes around every buffer stay intact.
CheckResult all_written(const Probe& p) {
  core::CheckedMemory checked;
  Run r = p.run(p.inputs());
  return verdict(double(r.count_nan()), 0, "elements never written");
}
CheckResult guards(const Probe& p) {
  core::CheckedMemory checked;
  p.run(p.inputs());
  core::synchronize(p.options.device);
  return verdict(checked.damaged(), 0, "writes out of bounds");
}

// (5) This device and dtype against CPU f64 on the rounded inputs.
CheckResult against_f64(const Probe& p) {
  Run reference = p.run_reference_precision();
  return verdict(p.run(p.inputs()).distance(reference), comparison_tolerance(p.sample, p.options.dtype),
                 "differs from cpu f64");
}

// (6) Strided inputs holding the same values: the same result, or core::Error.
CheckResult strided(const Probe& p) {
  Run plain = p.run(p.inputs());
  try {
    return verdict(p.run(p.strided_inputs()).distance(plain), 0, "strided inputs give another result");
  } catch (const core::Error&) {
    return verdict(0, 0);
  }
}

// (8) Two runs, the same bits.
CheckResult reproducible(const Probe& p) {
  if (!p.op.bit_reproducible || !core::deterministic()) {
    CheckResult r = verdict(0, 0);
    r.skipped = true;
    r.note = core::deterministic() ? "the op declares that its bits may differ" : "other bits were allowed";
    return r;
  }
  return verdict(p.run(p.inputs()).distance(p.run(p.inputs())), 0, "two runs differ");
}

// (9) Captured and launched as a graph: the same bits, or within the tolerance where bits may differ.
CheckResult captured(const Probe& p) {
  CaptureAndReplay capture = capture_service(p.options.device.type);
  if (!capture) {
    CheckResult r = verdict(0, 0);
    r.skipped = true;
    r.note = "no graph capture on " + name_of(p.options.device);
    return r;
  }
  Run plain = p.run(p.inputs());
  bool same_bits = p.op.bit_reproducible && core::deterministic();
  double tolerance = same_bits ? 0 : comparison_tolerance(p.sample, p.options.dtype);
  return verdict(p.run_captured(capture).distance(plain), tolerance, "the captured graph gives another result");
}

// (10) A fused op against the composite of plain ops.
CheckResult composite(const Probe& p) {
  Run reference = p.run_composite();
  double tolerance =
      p.options.dtype == DType::f64 ? 1e-12 * p.sample.factor : comparison_tolerance(p.sample, p.options.dtype);
  return verdict(p.run(p.inputs()).distance(reference), tolerance, "differs from its composite reference");
}

CheckResult guarded(const char* name, const Probe& p, Check check) {
  CheckResult r;
  try {
    r = check(p);
  } catch (const std::exception& e) {
    r.pass = false;
    r.note = e.what();
  }
  r.op = p.op.name, r.sample = p.sample.name, r.check = name;
  r.device = p.options.device, r.dtype = p.options.dtype;
  return r;
}

// (7) A bad call throws core::Error and nothing else.
CheckResult rejects(const OpEntry& op, const Case& sample, const CheckOptions& options) {
  CheckResult r;
  r.op = op.name, r.sample = sample.name, r.check = "rejects";
  r.device = options.device, r.dtype = options.dtype;
  if (sample.cpu_only && !options.device.is_cpu()) {
    r.skipped = true;
    r.note = "values of an index tensor are checked on the CPU";
    return r;
  }
  r.pass = false;
  r.note = "accepted a call that must fail";
  try {
    Probe p(op, sample, options);
    p.run(p.inputs());
  } catch (const core::Error&) {
    r.pass = true, r.note.clear();
  } catch (const std::exception& e) {
    r.note = std::string("threw something else than core::Error: ") + e.what();
  }
  return r;
}

// (6, first half) The samples hold a call with an empty output or input, and one with an axis of length 1.
CheckResult sizes(const Probe& any) {
  bool empty = false, one = false;
  for (const Case& s : any.op.samples()) {
    for (const InputSpec& in : s.inputs) {
      empty |= in.given && in.shape.numel() == 0;
      one |= in.given && (in.shape.numel() == 1 || std::find(in.shape.begin(), in.shape.end(), 1) != in.shape.end());
    }
    Probe p(any.op, s, any.options);
    for (const auto& y : p.run(p.inputs()).outputs) empty |= y.empty();
  }
  return verdict(!empty + !one, 0, empty ? "no sample with an axis of 1" : "no sample with an empty input or output");
}

}  // namespace

double comparison_tolerance(const Case& sample, DType dtype) {
  return 8 * core::epsilon(dtype) * std::sqrt(double(sample.reduction_length)) * sample.factor;
}

std::vector<CheckResult> check_op(const OpEntry& op, const CheckOptions& options) {
  bool exact = options.device.is_cpu() && options.dtype == DType::f64;
  std::vector<CheckResult> results;
  std::vector<Case> samples = op.samples();
  if (exact) {
    Case all{.name = "all"};
    results.push_back(guarded("sizes", Probe(op, all, options), sizes));
  }
  for (const Case& sample : samples) {
    Probe p(op, sample, options);
    if (exact) {
      results.push_back(guarded("differences", p, differences));
      results.push_back(guarded("subsets", p, subsets));
    } else {
      results.push_back(guarded("against_f64", p, against_f64));
    }
    results.push_back(guarded("all_written", p, all_written));
    results.push_back(guarded("guards", p, guards));
    results.push_back(guarded("strided", p, strided));
    results.push_back(guarded("reproducible", p, reproducible));
    if (options.device.is_cuda() || capture_service(options.device.type))
      results.push_back(guarded("captured", p, captured));
    if (sample.reference) results.push_back(guarded("composite", p, composite));
  }
  for (const Case& sample : op.error_samples()) results.push_back(rejects(op, sample, options));
  return results;
}

}  // namespace basis::autograd
