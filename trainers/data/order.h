// The order of samples: any (step, position) at once, in O(1) memory, from the seed and the global batch alone. So it
// does not depend on micro-batches, ranks or where a run was interrupted, and the only state is the step.
#pragma once

#include <cstdint>

namespace basis::trainers {

// A pseudo-random permutation of [0, n), one per key: a Feistel network over the next power of four, walked until it
// lands inside (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
class Permutation {
 public:
  Permutation(uint64_t seed, uint64_t stream, int64_t n);  // n >= 1
  int64_t operator()(int64_t i) const;                     // i in [0, n)

 private:
  uint64_t encrypt(uint64_t x) const;
  uint64_t seed_, stream_, n_;
  int half_bits_;
};

// One sample of a run.
struct Draw {
  int64_t number;  // counts all samples of the run: step * global_batch + position
  int64_t epoch;   // number / samples
  int64_t index;   // which of the epoch's samples, in [0, samples)
};

class SampleOrder {
 public:
  // `samples` per epoch and `global_batch` are positive; without `shuffle` each epoch runs from 0 to samples - 1.
  SampleOrder(uint64_t seed, int64_t samples, int64_t global_batch, bool shuffle);
  Draw at(int64_t step, int64_t position) const;  // position in [0, global_batch)
  int64_t samples() const { return samples_; }
  int64_t global_batch() const { return global_batch_; }

 private:
  uint64_t seed_;
  int64_t samples_, global_batch_;
  bool shuffle_;
};

}  // namespace basis::trainers
