// How fast re-gauged factors learn, so that their product moves as the dense one's.
#pragma once

#include "models/module.h"
#include "trainers/hf/head_errors.h"

namespace basis::trainers::hf {

struct AttentionPaces {
  models::Pace q, k, v, out;
};

// AdamW moves every number of a factor by about the learning rate r, whatever the factor's size, and so the product
// A^T B of a pair by at most r (||B|| + ||A||) sqrt(numbers) in the spectral norm. A change of gauge keeps the product
// and rescales the factors ([I ; C] has entries near 1, so its partner is small); with
//
//   rate of A' = ||B|| / ||B'||      rate of B' = ||A|| / ||A'||
//
// both parts move as far as before. A geometric mean over heads. Weight decay shrank both factors, the product twice:
// A' takes both, the coefficients C none (their identity does not shrink). Pairs: q with k, out with v; those that are
// not re-gauged keep 1. `bd`'s k and v are [I ; C] written out. Shapes as AttentionWeights says.
AttentionPaces gauge_paces(const AttentionWeights& dense, const AttentionWeights& bd, int64_t head_dim, bool qk,
                           bool vo);

}  // namespace basis::trainers::hf
