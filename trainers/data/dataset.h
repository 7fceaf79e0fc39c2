// Batches for training and evaluation: one interface over language modelling, masked language modelling and synthetic
// tasks. Immutable and thread-safe; which samples a step holds follows from (seed, step, position) alone (order.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trainers/data/order.h"
#include "trainers/data/source.h"

namespace basis::trainers {

inline constexpr int32_t kIgnore = -100;  // a target that is not scored

// inputs and targets: [batch, seq_len] row by row. targets[b, t] is what position t is to predict, or kIgnore.
struct Batch {
  std::vector<int32_t> inputs, targets;
  int64_t batch = 0, seq_len = 0;
  int64_t scored = 0;  // targets other than kIgnore
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  int64_t seq_len() const { return seq_len_; }
  int64_t samples() const { return order_.samples(); }  // per epoch
  int64_t global_batch() const { return order_.global_batch(); }
  // Samples [first, first + count) of the global batch of `step`.
  Batch batch(int64_t step, int64_t first, int64_t count) const;
  virtual std::string describe() const = 0;

 protected:
  Dataset(SampleOrder order, int64_t seq_len) : order_(order), seq_len_(seq_len) {}
  virtual void sample(const Draw& draw, int32_t* inputs, int32_t* targets) const = 0;  // [seq_len] each

 private:
  SampleOrder order_;
  int64_t seq_len_;
};

using DatasetPtr = std::shared_ptr<const Dataset>;

enum class WindowOrder {
  sequential,      // block 0, 1, 2, ... of seq_len tokens
  shuffled,        // each epoch a new permutation of the blocks, which start at a new random phase
  random_offsets,  // a uniform start for every sample, as nanoGPT draws
};

WindowOrder parse_window_order(const std::string& shuffle);  // data.shuffle: false, true, random_offsets

struct TextOptions {
  int64_t seq_len = 0, global_batch = 0;
  uint64_t seed = 0;
  WindowOrder order = WindowOrder::shuffled;
  // Language model: blocks of seq_len + 1 tokens that share none, so that each is scored alone, its first token
  // unscored.
  bool disjoint = false;
};

// Next-token prediction: inputs are tokens [s, s + seq_len), targets the same moved on by one.
// The source needs at least seq_len + 1 tokens.
DatasetPtr language_model(TokenSourcePtr source, const TextOptions& options);

// BERT's masked language modelling (Devlin et al. 2019): of the `probability` of positions chosen, 80% become mask_id,
// 10% a random id, 10% stay; only these are scored, at least one in a sample. The masks of a sample differ by epoch.
struct MaskOptions {
  double probability = 0.15;
  int32_t mask_id = 0;
  int64_t vocab_size = 0;           // random ids are below
  std::vector<int32_t> never;       // special ids that are neither chosen nor drawn
  std::optional<int32_t> cls, sep;  // written at the window's first and last position
};
DatasetPtr masked_language_model(TokenSourcePtr source, const TextOptions& options, const MaskOptions& masks);

enum class SyntheticTask { copy, induction, mqar };
SyntheticTask parse_synthetic(const std::string& name);

// copy: L = seq_len / 2 random tokens, the separator 0, the same tokens again; the second run is scored.
// induction: random tokens with one trigger 0 inside and one at the end; the token after the first trigger is scored.
// mqar: multi-query associative recall (Arora et al. 2023): `pairs` keys with values, then the keys again in random
//   places, each to be answered with its value. Keys are in [1, V/2), values in [V/2, V); other places hold id 0.
struct SyntheticOptions {
  SyntheticTask task = SyntheticTask::copy;
  int64_t seq_len = 0, global_batch = 0, vocab_size = 0;
  int64_t pairs = 4;    // mqar
  double power = 0.01;  // mqar: the distance of a query follows x^(power - 1)
  uint64_t seed = 0;
  int64_t samples = int64_t{1} << 40;  // per epoch; every epoch is the same
  int64_t first_sample = 0;            // evaluation takes samples that training never sees, e.g. 2^41
};
DatasetPtr synthetic(const SyntheticOptions& options);

// A fixed pass over a dataset made with `sequential` order: batches 0 .. batches() - 1, the last one may be smaller.
class EvalDataset {
 public:
  // `max_batches` 0: all samples of an epoch. Batches have data->global_batch() samples.
  EvalDataset(DatasetPtr data, int64_t max_batches = 0);
  int64_t batches() const { return batches_; }
  Batch batch(int64_t i) const;

 private:
  DatasetPtr data_;
  int64_t batches_;
};

}  // namespace basis::trainers
