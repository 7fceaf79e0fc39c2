#include "models/model.h"

#include <algorithm>

#include "ops/cross_entropy/cross_entropy.h"
#include "ops/linear/linear.h"
#include "ops/view/view.h"

namespace basis::models {
namespace {

// `auto` leaves logits of up to kLogits bytes in one piece, and cuts more into chunks of about kChunk bytes. On a GPU
// always: the loss and its gradient then take one pass over the logits, and pieces of a gigabyte keep it busy.
constexpr int64_t kLogits = int64_t{4} << 30, kChunk = int64_t{1} << 28, kChunkCuda = int64_t{1} << 30;

// Chunks of about equal size, a multiple of 128 rows where there are several.
int64_t chunk_of(int64_t rows, int64_t most) {
  int64_t chunks = std::max<int64_t>(1, (rows + most - 1) / std::max<int64_t>(1, most));
  int64_t each = (rows + chunks - 1) / chunks;
  return chunks == 1 ? std::max<int64_t>(1, rows) : (each + 127) / 128 * 128;
}

// For the fused head: 0 where the logits may be one tensor.
int64_t chunk_rows(const configs::ModelConfig& c, int64_t rows, int64_t row, bool gpu) {
  if (c.head_chunk == "none") return 0;
  if (c.head_chunk != "auto") return std::stoll(c.head_chunk);
  if (gpu) return chunk_of(rows, kChunkCuda / row);
  return rows * row <= kLogits ? 0 : std::max<int64_t>(1, kChunk / row);
}
int64_t chunk_rows(const configs::ModelConfig& c, int64_t rows, const Tensor& weight) {
  return chunk_rows(c, rows, weight.size(0) * size_of(weight.dtype()), weight.device().is_cuda());
}

}  // namespace

int64_t logit_bytes(const configs::ModelConfig& c, int64_t rows, DType dtype, bool gpu) {
  int64_t row = c.vocab_size * size_of(dtype), chunk = chunk_rows(c, rows, row, gpu);
  return row * (chunk ? std::min(chunk, rows) : rows);
}

Var Model::logits(const Pass& pass, const Tensor& ids, const Tensor& types) const {
  Head h = head(pass, ids, types);
  return ops::linear(h.x, h.weight, h.bias);
}

Var Model::loss(const Pass& pass, const Tensor& ids, const Tensor& targets, int32_t ignore, double scale) const {
  Head h = head(pass, ids);
  if (int64_t rows = chunk_rows(config_, ids.numel(), h.weight.value()))
    return ops::linear_cross_entropy(h.x, h.weight, h.bias, targets, {ignore, scale, rows});
  Var logits = ops::linear(h.x, h.weight, h.bias);
  logits = ops::view(logits, {ids.numel(), logits.size(2)});
  return ops::cross_entropy(logits, targets, {.ignore_index = ignore, .scale = scale});
}

ops::TargetScore Model::score(const Pass& pass, const Tensor& ids, const Tensor& targets, int32_t ignore) const {
  Head h = head(pass, ids);
  int64_t rows = chunk_rows(config_, ids.numel(), h.weight.value());
  return ops::score_targets(h.x.value(), h.weight.value(), h.bias ? h.bias.value() : Tensor(), targets,
                            {.ignore_index = ignore, .chunk = rows});
}

}  // namespace basis::models
