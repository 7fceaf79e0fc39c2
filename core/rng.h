// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): counter-based, so any
// element of any stream is computed independently, with the same numbers on the CPU and on the GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/dtype.h"

namespace basis::core {

struct Philox4 {
  uint32_t x, y, z, w;
};

// Four random words for one counter. `seed` is the key; `stream` names the consumer, `offset` the position in it.
BASIS_HOST_DEVICE inline Philox4 philox(uint64_t seed, uint64_t stream, uint64_t offset) {
  uint32_t c0 = uint32_t(offset), c1 = uint32_t(offset >> 32), c2 = uint32_t(stream), c3 = uint32_t(stream >> 32);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1), c3 = uint32_t(p0), c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// Uniform in [0, 1), 24 bits.
BASIS_HOST_DEVICE inline float uniform_from_bits(uint32_t bits) { return float(bits >> 8) * 0x1p-24f; }

// A stream's number: `stream`, plus what lies at `base` in the memory of the device that draws, where that is given. So
// work recorded as a graph draws other numbers at each replay.
BASIS_HOST_DEVICE inline uint64_t stream_at(uint64_t stream, const uint64_t* base) {
  return base ? *base + stream : stream;
}

// The state of a training run's randomness: `seed` is fixed for the run, `step` advances with the optimizer step, and
// each consumer of a step (a dropout layer in one micro-batch) takes the next stream number.
class Generator {
 public:
  explicit Generator(uint64_t seed = 0) : seed_(seed) {}
  uint64_t seed() const { return seed_; }
  // To be used as stream_at(next_stream(), base()).
  uint64_t next_stream() { return (base_ ? 0 : first_stream()) | (consumer_++ & 0xfffff); }
  uint64_t first_stream() const { return step_ << 20; }  // of this step
  // While set, streams count from the number at this address, which must hold first_stream() when the work runs.
  void set_base(const uint64_t* address) { base_ = address; }
  const uint64_t* base() const { return base_; }
  void begin_step(uint64_t step) { step_ = step, consumer_ = 0; }
  uint64_t consumer() const { return consumer_; }  // saved and restored by recompute
  void set_consumer(uint64_t consumer) { consumer_ = consumer; }

 private:
  uint64_t seed_, step_ = 0, consumer_ = 0;
  const uint64_t* base_ = nullptr;
};

// Host-side sequential draws from one stream, for initialisation and sampling.
class HostRandom {
 public:
  HostRandom(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  uint32_t bits() {
    if (used_ == 4) block_ = philox(seed_, stream_, offset_++), used_ = 0;
    const uint32_t words[4] = {block_.x, block_.y, block_.z, block_.w};
    return words[used_++];
  }
  double uniform() { return (double(bits()) + 0.5) * 0x1p-32; }  // (0, 1)
  double normal() {                                              // Box-Muller
    double u = uniform(), v = uniform();
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  uint64_t seed_, stream_, offset_ = 0;
  Philox4 block_{};
  int used_ = 4;
};

}  // namespace basis::core
