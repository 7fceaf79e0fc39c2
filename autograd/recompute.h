// Recompute (activation checkpointing; Chen et al., arXiv 1604.06174): run a function without recording, keep only its
// inputs, and run it again in backward. Costs one more forward, saves every activation inside.
#pragma once

#include <functional>
#include <vector>

#include "autograd/var.h"
#include "core/rng.h"

namespace basis::autograd {

using BlockFunction = std::function<std::vector<Var>(const std::vector<Var>&)>;

// ys = f(xs). Parameters that f captures receive their gradients as usual; an undefined x stays undefined. `generator`,
// when given, is rewound for the second run so that dropout draws the same numbers.
std::vector<Var> recompute(const BlockFunction& f, const std::vector<Var>& xs, core::Generator* generator = nullptr);

}  // namespace basis::autograd
