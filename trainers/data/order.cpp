#include "trainers/data/order.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/rng.h"
#include "trainers/data/streams.h"

namespace basis::trainers {

Permutation::Permutation(uint64_t seed, uint64_t stream, int64_t n) : seed_(seed), stream_(stream), n_(uint64_t(n)) {
  half_bits_ = 1;
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < n_) ++half_bits_;
}

uint64_t Permutation::encrypt(uint64_t x) const {
  uint64_t mask = (uint64_t{1} << half_bits_) - 1, left = x >> half_bits_, right = x & mask;
  for (uint64_t round = 0; round < 6; ++round) {
    uint64_t mixed = left ^ (core::philox(seed_, stream_, (round << 32) | right).x & mask);
    left = right, right = mixed;
  }
  return (left << half_bits_) | right;
}

int64_t Permutation::operator()(int64_t i) const {
  uint64_t x = uint64_t(i);
  do x = encrypt(x);
  while (x >= n_);
  return int64_t(x);
}

SampleOrder::SampleOrder(uint64_t seed, int64_t samples, int64_t global_batch, bool shuffle)
    : seed_(seed), samples_(samples), global_batch_(global_batch), shuffle_(shuffle) {
  if (samples < 1 || global_batch < 1)
    throw core::Error({.where = "sample order",
                       .expected = "at least one sample and a global batch of at least 1",
                       .got = fmt::format("{} samples, global batch {}", samples, global_batch),
                       .code = core::ExitCode::usage});
}

Draw SampleOrder::at(int64_t step, int64_t position) const {
  Draw draw;
  draw.number = step * global_batch_ + position;
  draw.epoch = draw.number / samples_;
  draw.index = draw.number % samples_;
  if (shuffle_) draw.index = Permutation(seed_, stream(Stream::order, uint64_t(draw.epoch)), samples_)(draw.index);
  return draw;
}

}  // namespace basis::trainers
