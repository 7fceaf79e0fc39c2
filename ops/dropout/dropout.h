// Inverted dropout (Srivastava et al., JMLR 2014), with numbers that are the same on every device.
#pragma once

#include "core/rng.h"
#include "ops/common/check.h"

namespace basis::ops {

// y = x * keep / (1 - p), keep ~ Bernoulli(1 - p), 0 <= p < 1. Element i keeps when the uniform made of word i % 4 of
// philox(seed, stream, i / 4) is >= p. Takes the generator's next stream; saves no mask.
Var dropout(const Var& x, double p, core::Generator& random);

struct DropoutOptions {
  double p = 0;
  uint64_t seed = 0, stream = 0;
  const uint64_t* base = nullptr;  // on x's device: added to stream
};
inline constinit KernelTable<void(const DropoutOptions&, const Tensor& x, const Tensor& y)> dropout_kernel{"dropout"};

}  // namespace basis::ops
