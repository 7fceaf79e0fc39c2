// The generated checks of every registered op. Values and gradients are compared along the chain
//
//   finite differences <-> CPU f64 <-> any other device and dtype
//
// and each op is also checked for what a value comparison does not show: unwritten outputs, writes out of bounds,
// strided inputs, wrong dependence on which gradients are asked for, non-reproducible bits, silent acceptance of bad
// input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/registry.h"

namespace basis::autograd {

struct CheckOptions {
  Device device = core::cpu;
  DType dtype = DType::f64;  // f64 on the CPU runs the differences; any other pair is compared with CPU f64
  uint64_t seed = 20260101;
};

struct CheckResult {
  std::string op, sample, check;
  Device device;
  DType dtype;
  double max_error = 0;  // ||difference|| / ||expected|| of the worst tensor, or a count
  double tolerance = 0;
  bool pass = true;
  bool skipped = false;
  std::string note;  // what went wrong
};

// f64 central differences against backward: the relative error that an op must stay below.
inline constexpr double kDifferenceTolerance = 1e-6;

// Tolerance of a device and dtype against CPU f64 on the rounded inputs: 8 eps(dtype) sqrt(reduction length) factor.
double comparison_tolerance(const Case& sample, DType dtype);

// All checks of one op that apply to the options. Never throws for a failing op.
std::vector<CheckResult> check_op(const OpEntry& op, const CheckOptions& options = {});

}  // namespace basis::autograd
