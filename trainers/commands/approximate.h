// basis eval --approximate: a trained model with other mixers in the place of its own.
#pragma once

#include <string>
#include <vector>

#include "trainers/session.h"
#include "trainers/step.h"

namespace basis::trainers {

// `specs`: KIND:k=K,K,... with KIND
//   conv      k segments, uniform breakpoints          recover   breakpoints by the search of arXiv 2405.05219
//   window    k keys a query: a few sinks and the last  topk      the k largest logits of each query
// Prints, for each, the loss over `data` and its distance from the model's own, and each layer's relative error
// ||mixed - exact|| / ||exact|| on the q, k and v of the model as it is. Throws core::Error (usage) for another spec,
// and where the model's mixers cannot be replaced so.
void approximate(const Loaded& loaded, const EvalDataset& data, const std::vector<std::string>& specs,
                 const std::string& svg, bool json);

}  // namespace basis::trainers
