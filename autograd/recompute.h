// Recompute (activation checkpointing; Chen et al., arXiv 1604.06174): run a function without recording, keep only its
// inputs, and run it again in backward. Costs one more forward, saves every activation inside.
#pragma once

#include <functional>

#include "autograd/var.h"
#include "core/rng.h"

namespace basis::autograd {

// y = f(x). Parameters that f captures receive their gradients as usual. `generator`, when given, is rewound for the
// second run so that dropout draws the same numbers.
Var recompute(const std::function<Var(const Var&)>& f, const Var& x, core::Generator* generator = nullptr);

}  // namespace basis::autograd
