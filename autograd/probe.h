// One sample of an op made runnable for gradcheck: its random inputs and cotangents, and what a run of it gives.
#pragma once

#include <string>
#include <vector>

#include "autograd/capture.h"
#include "autograd/gradcheck.h"

namespace basis::autograd {

// What an op gave: values and gradients on the host in f64. A gradient that was not asked for is empty.
struct Run {
  std::vector<std::vector<double>> outputs, gradients;
  double gradient_norm() const;
  int64_t count_nan() const;
  // The largest ||a - b|| / ||b|| over outputs and gradients; where b is all zero, ||a||. NaN when either holds a NaN
  // alone.
  double distance(const Run& expected) const;
};

struct Direction {
  std::string name;
  std::vector<double> e;  // unit length
  double dot(const std::vector<double>& g) const;
};

class Probe {
 public:
  Probe(const OpEntry& op, const Case& sample, const CheckOptions& options);

  const OpEntry& op;
  const Case& sample;
  CheckOptions options;

  bool differentiable(size_t i) const { return sample.inputs[i].given && sample.inputs[i].differentiable; }
  // The inputs on the device and in the dtype of the options; undefined where the sample gives none.
  Tensors inputs() const;
  Tensors strided_inputs() const;  // the same values, each as a transposed view of other memory
  // Forward and backward with the fixed cotangents; `mask` says which inputs ask for a gradient.
  Run run(const Tensors& inputs, uint32_t mask = ~0u) const;
  Run run_reference_precision() const;  // CPU f64, on the rounded inputs and cotangents
  Run run_composite() const;
  Run run_captured(CaptureAndReplay capture) const;  // forward and backward, captured and launched as a graph
  // <u, f(x)> with input i moved by h along e. CPU f64.
  double objective(size_t i, const Direction& e, double h) const;
  // Every coordinate of a small input, some of a large one, and three random directions.
  std::vector<Direction> directions(size_t i) const;

 private:
  using Function = std::function<std::vector<Var>(const std::vector<Var>&, Device)>;
  Run run_on(const Function& f, const Tensors& inputs, uint32_t mask, Device device, DType dtype) const;
  std::vector<double> cotangent(size_t output, int64_t n, DType dtype) const;

  std::vector<std::vector<double>> values_;  // rounded to the dtype
};

}  // namespace basis::autograd
