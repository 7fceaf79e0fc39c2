#include "autograd/probe.h"

#include <cmath>
#include <limits>

#include "core/rng.h"

namespace basis::autograd {
namespace {

// The nearest value that `t` can hold.
std::vector<double> rounded(const std::vector<double>& v, DType t) {
  return Tensor::from(v, {int64_t(v.size())}).to(t).to(DType::f64).to_vector<double>();
}

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

double distance(const std::vector<double>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double sum = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
    sum += (got[i] - expected[i]) * (got[i] - expected[i]);
  }
  double scale = norm(expected);
  return std::sqrt(sum) / (scale > 0 ? scale : 1);
}

}  // namespace

double Run::gradient_norm() const {
  double sum = 0;
  for (const auto& g : gradients) sum += norm(g) * norm(g);
  return std::sqrt(sum);
}

int64_t Run::count_nan() const {
  int64_t n = 0;
  for (const auto* list : {&outputs, &gradients})
    for (const auto& v : *list)
      for (double x : v) n += std::isnan(x);
  return n;
}

double Run::distance(const Run& expected) const {
  double worst = 0;
  auto compare = [&](const auto& a, const auto& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      double d = autograd::distance(a[i], b[i]);
      if (!(d <= worst)) worst = d;
    }
  };
  if (outputs.size() != expected.outputs.size()) return std::numeric_limits<double>::infinity();
  compare(outputs, expected.outputs);
  compare(gradients, expected.gradients);
  return worst;
}

double Direction::dot(const std::vector<double>& g) const {
  if (g.size() != e.size()) return std::numeric_limits<double>::quiet_NaN();  // the op gave no gradient
  double sum = 0;
  for (size_t i = 0; i < e.size(); ++i) sum += e[i] * g[i];
  return sum;
}

Probe::Probe(const OpEntry& o, const Case& s, const CheckOptions& c) : op(o), sample(s), options(c) {
  for (size_t i = 0; i < s.inputs.size(); ++i) {
    const InputSpec& in = s.inputs[i];
    core::HostRandom random(c.seed, 1000 + i);
    std::vector<double> v(size_t(in.given ? in.shape.numel() : 0));
    for (double& x : v) x = in.low + (in.high - in.low) * random.uniform();
    values_.push_back(rounded(v, c.dtype));
  }
}

Tensors Probe::inputs() const {
  Tensors out;
  for (size_t i = 0; i < values_.size(); ++i)
    out.push_back(sample.inputs[i].given
                      ? Tensor::from(values_[i], sample.inputs[i].shape).to(options.dtype).to(options.device)
                      : Tensor());
  return out;
}

Tensors Probe::strided_inputs() const {
  Tensors out = inputs();
  for (Tensor& t : out) {
    if (!t || t.dim() == 0) continue;
    if (t.dim() >= 2) {
      Tensor turned = t.transpose(0, t.dim() - 1).contiguous();
      t = turned.transpose(0, t.dim() - 1);
    } else {  // the second half of a longer tensor: memory that does not begin at the block's start
      int64_t n = t.size(0);
      Tensor half = Tensor::full({2 * n}, 777, t.dtype(), t.device()).slice(0, n, 2 * n);
      half.copy_from(t);
      t = half;
    }
  }
  return out;
}

std::vector<double> Probe::cotangent(size_t output, int64_t n, DType dtype) const {
  core::HostRandom random(options.seed, 2000 + output);
  std::vector<double> u(static_cast<size_t>(n));
  for (double& x : u) x = 2 * random.uniform() - 1;
  return rounded(u, dtype);
}

Run Probe::run_on(const Function& f, const Tensors& in, uint32_t mask, Device device, DType dtype) const {
  std::vector<Var> vars;
  for (size_t i = 0; i < in.size(); ++i)
    vars.push_back(in[i] ? Var(in[i], differentiable(i) && (mask >> i & 1)) : Var());
  std::vector<Var> out = f(vars, device);
  Run r;
  Tensors cotangents;
  bool any = false;
  for (size_t i = 0; i < out.size(); ++i) {
    const Tensor& y = out[i].value();
    r.outputs.push_back(y.to_vector<double>());
    cotangents.push_back(Tensor::from(cotangent(i, y.numel(), dtype), y.shape()).to(y.dtype()).to(device));
    any |= out[i].requires_grad();
  }
  for (Var& v : out) v = v.requires_grad() ? v : Var(v.value());
  if (any) {
    std::vector<Var> heads = std::move(out);
    backward(heads, cotangents);
  }
  for (const Var& v : vars) {
    bool asked = v && v.requires_grad();
    r.gradients.push_back(asked && v.grad() ? v.grad().to_vector<double>() : std::vector<double>());
  }
  return r;
}

Run Probe::run(const Tensors& in, uint32_t mask) const {
  return run_on(sample.run, in, mask, options.device, options.dtype);
}

Run Probe::run_captured(CaptureAndReplay capture) const {
  run(inputs());  // fills the allocator
  std::vector<Var> vars, out;
  Tensors in = inputs(), cotangents;
  for (size_t i = 0; i < in.size(); ++i) vars.push_back(in[i] ? Var(in[i], differentiable(i)) : Var());
  for (const Var& y : sample.run(vars, options.device)) {
    auto u = cotangent(cotangents.size(), y.value().numel(), options.dtype);
    cotangents.push_back(Tensor::from(u, y.shape()).to(y.dtype()).to(options.device));
  }
  core::synchronize(options.device);
  capture(options.device, [&] {
    out = sample.run(vars, options.device);
    bool any = false;
    for (const Var& y : out) any |= y.requires_grad();
    if (any) backward(out, cotangents);
  });
  Run r;
  for (const Var& y : out) r.outputs.push_back(y.value().to_vector<double>());
  for (const Var& v : vars)
    r.gradients.push_back(v && v.requires_grad() && v.grad() ? v.grad().to_vector<double>() : std::vector<double>());
  return r;
}

Run Probe::run_composite() const { return run_on(sample.reference, inputs(), ~0u, options.device, options.dtype); }

Run Probe::run_reference_precision() const {
  Tensors in;
  for (size_t i = 0; i < values_.size(); ++i)
    in.push_back(sample.inputs[i].given ? Tensor::from(values_[i], sample.inputs[i].shape) : Tensor());
  return run_on(sample.run, in, ~0u, core::cpu, options.dtype);
}

double Probe::objective(size_t i, const Direction& e, double h) const {
  NoGrad no_grad;
  std::vector<Var> vars;
  for (size_t j = 0; j < values_.size(); ++j) {
    std::vector<double> v = values_[j];
    if (j == i)
      for (size_t c = 0; c < v.size(); ++c) v[c] += h * e.e[c];
    vars.push_back(sample.inputs[j].given ? Var(Tensor::from(v, sample.inputs[j].shape)) : Var());
  }
  double sum = 0;
  std::vector<Var> out = sample.run(vars, core::cpu);
  for (size_t o = 0; o < out.size(); ++o) {
    auto y = out[o].value().to_vector<double>(), u = cotangent(o, int64_t(y.size()), DType::f64);
    for (size_t c = 0; c < y.size(); ++c) sum += u[c] * y[c];
  }
  return sum;
}

std::vector<Direction> Probe::directions(size_t i) const {
  constexpr size_t coordinates = 48, random_directions = 3;
  size_t n = values_[i].size();
  std::vector<Direction> list;
  core::HostRandom random(options.seed, 3000 + i);
  for (size_t c = 0; c < std::min(n, coordinates); ++c) {
    size_t at = n <= coordinates ? c : size_t(random.uniform() * double(n));
    Direction d{"coordinate " + std::to_string(at), std::vector<double>(n)};
    d.e[at] = 1;
    list.push_back(std::move(d));
  }
  for (size_t k = 0; n > 0 && k < random_directions; ++k) {
    Direction d{"direction " + std::to_string(k), std::vector<double>(n)};
    for (double& x : d.e) x = random.normal();
    double length = norm(d.e);
    for (double& x : d.e) x /= length;
    list.push_back(std::move(d));
  }
  return list;
}

}  // namespace basis::autograd
