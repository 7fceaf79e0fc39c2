#include "core/arena.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/tensor.h"

namespace basis::core {
namespace {

constexpr int64_t kOdd = 123457;  // a size class that no other test uses
Tensor odd() { return Tensor::empty({kOdd}, DType::f32); }

TEST(Arena, GivesAFreedBlockToTheNextRequestOfItsSize) {
  void* first = odd().raw();
  size_t calls = memory_stats(cpu).device_calls;
  EXPECT_EQ(odd().raw(), first);
  EXPECT_EQ(memory_stats(cpu).device_calls, calls);
}

TEST(Arena, CountsWhatLivesAndTheHighest) {
  reset_peak(cpu);
  size_t before = memory_stats(cpu).in_use;
  { Tensor a = odd(), b = odd(); }
  MemoryStats s = memory_stats(cpu);
  EXPECT_EQ(s.in_use, before);
  EXPECT_GE(s.peak, before + 2 * size_t(kOdd) * 4);
  EXPECT_LE(s.peak, before + size_t(2 * 1.125 * double(kOdd) * 4));
}

TEST(Arena, StatisticsTellRequestsFromCallsOfTheDevice) {
  empty_cache(cpu);
  MemoryStats before = memory_stats(cpu);
  { Tensor a = odd(), b = odd(); }
  MemoryStats first = memory_stats(cpu);
  EXPECT_EQ(first.requests, before.requests + 2);
  EXPECT_EQ(first.device_calls, before.device_calls + 2);
  EXPECT_GE(first.reserved, before.reserved + 2 * size_t(kOdd) * 4);
  { Tensor a = odd(), b = odd(); }
  MemoryStats second = memory_stats(cpu);
  EXPECT_EQ(second.requests, first.requests + 2);
  EXPECT_EQ(second.device_calls, first.device_calls);
  EXPECT_EQ(second.reserved, first.reserved);
  empty_cache(cpu);
  EXPECT_EQ(memory_stats(cpu).reserved, before.reserved);
  EXPECT_EQ(memory_stats(cpu).in_use, before.in_use);
}

TEST(Arena, PeakFallsOnlyWhenItIsReset) {
  reset_peak(cpu);
  size_t low = memory_stats(cpu).peak;
  EXPECT_EQ(low, memory_stats(cpu).in_use);
  { Tensor a = odd(); }
  size_t high = memory_stats(cpu).peak;
  EXPECT_GT(high, low);
  { Tensor small = Tensor::empty({3}, DType::f32); }
  EXPECT_EQ(memory_stats(cpu).peak, high);
  reset_peak(cpu);
  EXPECT_EQ(memory_stats(cpu).peak, low);
}

TEST(Arena, CheckedMemoryFillsWithNanAndSeesAWriteBeyond) {
  CheckedMemory checked;
  Tensor t = Tensor::empty({5}, DType::f32);
  for (float x : t.to_vector<float>()) EXPECT_NE(x, x);
  EXPECT_EQ(checked.damaged(), 0);
  char* end = static_cast<char*>(t.raw()) + t.bytes();
  char kept = *end;
  *end = char(kept + 1);
  EXPECT_EQ(checked.damaged(), 1);
  *end = kept;
}

TEST(Arena, APoolKeepsItsBlocksUntilItIsReleased) {
  empty_cache(cpu);
  int pool = begin_pool(cpu);
  EXPECT_THROW(begin_pool(cpu), Error);
  Tensor kept = odd();
  void* recorded = odd().raw();
  EXPECT_EQ(odd().raw(), recorded);  // reused within the pool
  end_pool(cpu);
  {
    Tensor eager = odd();
    EXPECT_NE(eager.raw(), recorded);
  }
  void* last = kept.raw();
  release_pool(cpu, pool);
  kept = Tensor();  // a block freed after the release goes to the arena too
  Tensor a = odd(), b = odd(), c = odd();
  for (void* p : {recorded, last}) EXPECT_TRUE(a.raw() == p || b.raw() == p || c.raw() == p);
  empty_cache(cpu);
}

}  // namespace
}  // namespace basis::core
