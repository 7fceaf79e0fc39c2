// The caching allocator. Freed blocks wait in size classes for the next request of the same device, so a training
// step after the first takes no memory from the system. On CUDA all work of a thread is ordered on one stream, and a
// block is reused in stream order without synchronisation.
#pragma once

#include <cstddef>
#include <memory>

#include "core/device.h"

namespace basis::core {

// One block of memory; returns to the arena when the last tensor lets go of it.
struct Storage {
  void* data = nullptr;
  size_t bytes = 0;     // usable
  size_t capacity = 0;  // taken from the device, guards included
  Device device;
  bool guarded = false;
  int pool = 0;  // where the block goes when it is freed
  Storage() = default;
  Storage(const Storage&) = delete;
  ~Storage();
};

struct MemoryStats {
  size_t in_use = 0;        // bytes held by live tensors
  size_t reserved = 0;      // bytes taken from the device, in use or cached
  size_t peak = 0;          // highest in_use since the last reset_peak
  size_t requests = 0;      // allocations asked for
  size_t device_calls = 0;  // of them, how many reached the device
};

// Throws core::Error when the device has no memory left even after the cache was emptied.
std::shared_ptr<Storage> allocate(Device device, size_t bytes);
MemoryStats memory_stats(Device device);
void reset_peak(Device device);
void empty_cache(Device device);

// Blocks apart from the others, for work recorded as a graph, whose replays touch the addresses it was recorded with.
// Between begin_pool and end_pool allocations on the device belong to the pool, and freed ones wait in it for the next
// allocation there; release_pool hands everything back to the arena. One pool at a time is open on a device.
int begin_pool(Device device);
void end_pool(Device device);
void release_pool(Device device, int pool);

// Checking mode, for gradcheck: every new block is filled with 0xFF bytes (NaN in each float type) and lies between
// guard bytes. Affects blocks allocated while it is on.
class CheckedMemory {
 public:
  CheckedMemory();
  ~CheckedMemory();
  CheckedMemory(const CheckedMemory&) = delete;
  // Guards found damaged since construction, in live and in freed blocks (CPU and CUDA).
  int damaged() const;
};

}  // namespace basis::core
