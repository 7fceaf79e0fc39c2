// Philox 4x32-10 against the known answers of Random123 (kat_vectors), and the streams built on it.
#include "core/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace basis::core {
namespace {

uint64_t pair(uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; }

struct Known {
  std::array<uint32_t, 4> counter;
  std::array<uint32_t, 2> key;
  std::array<uint32_t, 4> words;
};

TEST(Philox, KnownAnswers) {
  const Known cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Known& k : cases) {
    Philox4 r = philox(pair(k.key[0], k.key[1]), pair(k.counter[2], k.counter[3]), pair(k.counter[0], k.counter[1]));
    EXPECT_EQ((std::array{r.x, r.y, r.z, r.w}), k.words);
  }
}

TEST(Philox, UniformsLieInTheHalfOpenInterval) {
  EXPECT_EQ(uniform_from_bits(0), 0);
  EXPECT_LT(uniform_from_bits(0xffffffff), 1);
  EXPECT_EQ(uniform_from_bits(0x80000000), 0.5f);
}

TEST(Philox, HostDrawsFollowTheBlocks) {
  HostRandom random(7, 3);
  for (uint64_t block = 0; block < 3; ++block) {
    Philox4 r = philox(7, 3, block);
    for (uint32_t word : {r.x, r.y, r.z, r.w}) EXPECT_EQ(random.bits(), word);
  }
}

TEST(Philox, NormalsHaveTheirMoments) {
  HostRandom random(1, 2);
  constexpr int n = 200000;
  double m[5] = {};
  for (int i = 0; i < n; ++i) {
    double x = random.normal(), power = 1;
    for (double& sum : m) sum += power / n, power *= x;
  }
  // Five standard deviations of each mean: Var(x^k) / n with Var = 1, 2, 15, 96.
  EXPECT_NEAR(m[1], 0, 5 * std::sqrt(1.0 / n));
  EXPECT_NEAR(m[2], 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(m[3], 0, 5 * std::sqrt(15.0 / n));
  EXPECT_NEAR(m[4], 3, 5 * std::sqrt(96.0 / n));
}

TEST(Generator, StreamsOfARunAreDistinct) {
  Generator g(5);
  std::set<uint64_t> seen;
  for (uint64_t step = 0; step < 20; ++step) {
    g.begin_step(step);
    for (int i = 0; i < 50; ++i) EXPECT_TRUE(seen.insert(g.next_stream()).second);
  }
  g.begin_step(3);
  g.next_stream();
  uint64_t consumer = g.consumer(), stream = g.next_stream();
  g.set_consumer(consumer);
  EXPECT_EQ(g.next_stream(), stream);
}

}  // namespace
}  // namespace basis::core
