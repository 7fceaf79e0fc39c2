// What the benchmarks share: random tensors and median times on the device's clock.
#pragma once

#include <algorithm>
#include <functional>

#include "autograd/var.h"
#include "core/rng.h"

namespace basis::trainers {

// Normal values, needing a gradient.
inline autograd::Var random_var(const core::Shape& shape, core::DType dtype, core::Device device, uint64_t stream) {
  core::HostRandom r(1, stream);
  std::vector<float> v(size_t(shape.numel()));
  constexpr size_t kPeriod = 1000003;  // a prime, so that no two rows are alike; drawing more takes seconds
  for (size_t i = 0; i < v.size(); ++i) v[i] = i < kPeriod ? float(r.normal()) : v[i - kPeriod];
  return autograd::Var(core::Tensor::from(v, shape).to(dtype).to(device), true);
}

// Median seconds of one call on the device's clock, after `warm_up` calls.
inline double median_seconds(core::Device device, int64_t repeats, const std::function<void()>& f, int warm_up = 3) {
  for (int i = 0; i < warm_up; ++i) f();
  std::vector<double> times;
  for (int64_t i = 0; i < repeats; ++i) times.push_back(core::time_on(device, f));
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

struct Timing {
  double forward, both;  // seconds
};

// Forward alone, and forward with backward, of `f` over leaves that need gradients.
inline Timing time_op(core::Device device, int64_t repeats, const std::vector<autograd::Var>& leaves,
                      const std::function<autograd::Var()>& f, int warm_up = 3) {
  Timing t;
  auto forward = [&] {
    autograd::NoGrad no_grad;
    return f();
  };
  t.forward = median_seconds(
      device, repeats, [&] { forward(); }, warm_up);
  core::Shape shape = forward().shape();
  core::Tensor cotangent = random_var(shape, leaves[0].dtype(), device, 99).value();
  t.both = median_seconds(
      device, repeats, [&] { autograd::gradients(f(), leaves, cotangent); }, warm_up);
  return t;
}

}  // namespace basis::trainers
