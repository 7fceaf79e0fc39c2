// How training from scratch starts in Basis Decomposition.
#pragma once

#include "models/model.h"

namespace basis::trainers::hf {

// Gives `model` the weights of a dense model initialised with `seed`, re-gauged: the same function at the start, where
// `initialize` draws C itself. Does nothing unless the projectors are bd with init: converted. Throws core::Error
// (usage) when layers differ in their projector, or when a basis that depends on the weights falls on the other slice.
void convert_initialisation(models::Model& model, uint64_t seed);

}  // namespace basis::trainers::hf
