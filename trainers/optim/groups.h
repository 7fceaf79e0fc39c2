// Parameters treated apart: train.frozen and optimizer.groups. Each names them by globs over their paths; a glob that
// matches a module ("layers/0") stands for all below it. Buffers are never named.
#pragma once

#include <string>
#include <vector>

#include "configs/train_config.h"
#include "models/module.h"

namespace basis::trainers {

struct GroupSettings {
  double lr_scale = 1, weight_decay = 0;
};

// Settings of each parameter, in order. Without a group, weight decay pulls matrices only: a norm's weight or a bias
// has no scale to shrink. Throws core::Error (usage) for a glob that matches none.
std::vector<GroupSettings> group_settings(const configs::OptimizerConfig& config,
                                          const std::vector<models::Parameter>& parameters);

// The parameters that train.frozen names ask for no gradient from now on: backward skips what only they need. Throws
// core::Error (usage) for a glob that matches none, and when nothing is left to train.
void freeze(const configs::TrainConfig& config, std::vector<models::Parameter> parameters);

int64_t trainable_count(const std::vector<models::Parameter>& parameters);  // elements

// YAML comments: each glob and the parameters it matches; empty without globs.
std::string describe_groups(const configs::Config& config, const std::vector<models::Parameter>& parameters);

// One line when a change of basis has rescaled parameters and optimizer.gauge_rates heeds it; else empty.
std::string describe_paces(const configs::OptimizerConfig& config, const std::vector<models::Parameter>& parameters);

}  // namespace basis::trainers
