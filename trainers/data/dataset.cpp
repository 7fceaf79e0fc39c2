#include "trainers/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace basis::trainers {

Batch Dataset::batch(int64_t step, int64_t first, int64_t count) const {
  if (step < 0 || first < 0 || count < 0 || first + count > global_batch())
    throw core::Error({.where = "batch",
                       .expected = fmt::format("step >= 0 and samples within the global batch of {}", global_batch()),
                       .got = fmt::format("step {}, samples [{}, {})", step, first, first + count)});
  Batch b{.batch = count, .seq_len = seq_len_};
  b.inputs.resize(size_t(count * seq_len_));
  b.targets.resize(size_t(count * seq_len_));
  for (int64_t i = 0; i < count; ++i)
    sample(order_.at(step, first + i), &b.inputs[size_t(i * seq_len_)], &b.targets[size_t(i * seq_len_)]);
  b.scored = std::count_if(b.targets.begin(), b.targets.end(), [](int32_t t) { return t != kIgnore; });
  return b;
}

EvalDataset::EvalDataset(DatasetPtr data, int64_t max_batches) : data_(std::move(data)) {
  int64_t all = data_->samples() / data_->global_batch() + (data_->samples() % data_->global_batch() != 0);
  batches_ = max_batches > 0 ? std::min(all, max_batches) : all;
}

Batch EvalDataset::batch(int64_t i) const {
  if (i < 0 || i >= batches_)
    throw core::Error(
        {.where = "evaluation batch", .expected = fmt::format("[0, {})", batches_), .got = std::to_string(i)});
  return data_->batch(i, 0, std::min(data_->global_batch(), data_->samples() - i * data_->global_batch()));
}

}  // namespace basis::trainers
