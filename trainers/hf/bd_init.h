// How training from scratch starts in Basis Decomposition.
#pragma once

#include "models/model.h"

namespace basis::trainers::hf {

// Gives the layers of `model` whose projector is bd with init: converted the weights of dense ones initialised with
// `seed`, re-gauged: the same function at the start, where `initialize` draws C itself. Other layers keep what
// `initialize` gives them. Throws core::Error (usage) when a basis that depends on the weights falls on the other
// slice.
void convert_initialisation(models::Model& model, uint64_t seed);

}  // namespace basis::trainers::hf
