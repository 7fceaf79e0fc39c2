#include "core/arena.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <vector>

#include "core/error.h"

namespace basis::core {
namespace {

constexpr size_t kGuard = 64;  // bytes on either side in checking mode; keeps the alignment
constexpr unsigned char kGuardByte = 0xA5;

using FreeBlocks = std::map<size_t, std::vector<void*>>;  // by capacity

struct Pool {
  FreeBlocks free;
  MemoryStats stats;
  std::map<int, FreeBlocks> apart;  // of the pools that begin_pool opened
  int open = 0, last = 0;           // 0: none

  // Where blocks of `id` wait when free: the arena's own list once the pool is released.
  FreeBlocks& list(int id) {
    auto it = apart.find(id);
    return it == apart.end() ? free : it->second;
  }
};

std::mutex mutex;
std::map<std::pair<int, int>, Pool>& pools() {  // leaked on purpose: tensors may outlive static destruction
  static auto* all = new std::map<std::pair<int, int>, Pool>;
  return *all;
}
Pool& pool(Device d) { return pools()[{int(d.type), d.index}]; }

int checking = 0;
int damaged_count = 0;
std::set<const Storage*>& guarded_blocks() {
  static auto* all = new std::set<const Storage*>;
  return *all;
}

// Size classes: eight steps per power of two, so at most 12.5 % is lost to rounding.
size_t size_class(size_t bytes) {
  if (bytes <= 512) return 512;
  size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

bool guard_intact(const Storage& s) {
  unsigned char buffer[2 * kGuard];
  const auto* base = static_cast<const unsigned char*>(s.data);
  const Backend& b = backend(s.device.type);
  b.copy(cpu, buffer, s.device, base - kGuard, kGuard);
  b.copy(cpu, buffer + kGuard, s.device, base + s.bytes, kGuard);
  if (s.device.is_cuda()) b.synchronize(s.device.index);
  return std::all_of(buffer, buffer + 2 * kGuard, [](unsigned char c) { return c == kGuardByte; });
}

void drop_cache(Device device, Pool& p) {
  const Backend& b = backend(device.type);
  b.synchronize(device.index);
  for (auto& [capacity, blocks] : p.free) {
    for (void* block : blocks) b.release(device.index, block, capacity);
    p.stats.reserved -= capacity * blocks.size();
  }
  p.free.clear();
}

void* pop(FreeBlocks& free, size_t capacity) {
  auto it = free.find(capacity);
  if (it == free.end() || it->second.empty()) return nullptr;
  void* block = it->second.back();
  it->second.pop_back();
  return block;
}

void* take(Device device, Pool& p, size_t capacity) {
  if (p.open)
    if (void* block = pop(p.list(p.open), capacity)) return block;
  if (void* block = pop(p.free, capacity)) return block;
  ++p.stats.device_calls;
  void* block;
  try {
    block = backend(device.type).allocate(device.index, capacity);
  } catch (const Error&) {
    if (p.open) throw;  // emptying the cache waits for the device, which a recording forbids
    drop_cache(device, p);
    block = backend(device.type).allocate(device.index, capacity);
  }
  p.stats.reserved += capacity;
  return block;
}

}  // namespace

std::shared_ptr<Storage> allocate(Device device, size_t bytes) {
  auto storage = std::make_shared<Storage>();
  std::lock_guard lock(mutex);
  Pool& p = pool(device);
  bool guarded = checking > 0;
  size_t capacity = size_class(bytes + (guarded ? 2 * kGuard : 0));
  auto* block = static_cast<unsigned char*>(take(device, p, capacity));
  storage->capacity = capacity;
  storage->bytes = bytes;
  storage->device = device;
  storage->data = guarded ? block + kGuard : block;
  storage->guarded = guarded;
  storage->pool = p.open;
  ++p.stats.requests;
  p.stats.in_use += capacity;
  p.stats.peak = std::max(p.stats.peak, p.stats.in_use);
  if (guarded) {
    const Backend& b = backend(device.type);
    b.fill_bytes(device.index, block, 0xFF, capacity);
    b.fill_bytes(device.index, block, kGuardByte, kGuard);
    b.fill_bytes(device.index, block + kGuard + bytes, kGuardByte, kGuard);
    guarded_blocks().insert(storage.get());
  }
  return storage;
}

Storage::~Storage() {
  if (!data) return;
  std::lock_guard lock(mutex);
  Pool& p = core::pool(device);
  p.stats.in_use -= capacity;
  auto* block = static_cast<unsigned char*>(data);
  if (guarded) {
    if (guarded_blocks().erase(this) && !guard_intact(*this)) ++damaged_count;
    block -= kGuard;
  }
  try {
    p.list(pool)[capacity].push_back(block);
  } catch (const std::bad_alloc&) {  // no memory left even for the list: then the block is what is needed
    backend(device.type).release(device.index, block, capacity);
    p.stats.reserved -= capacity;
  }
}

MemoryStats memory_stats(Device device) {
  std::lock_guard lock(mutex);
  return pool(device).stats;
}

void reset_peak(Device device) {
  std::lock_guard lock(mutex);
  Pool& p = pool(device);
  p.stats.peak = p.stats.in_use;
}

void empty_cache(Device device) {
  std::lock_guard lock(mutex);
  drop_cache(device, pool(device));
}

int begin_pool(Device device) {
  std::lock_guard lock(mutex);
  Pool& p = pool(device);
  if (p.open) throw Error({.where = "arena", .expected = "no open pool", .got = "one"});
  p.open = ++p.last;
  p.apart[p.open];
  return p.open;
}

void end_pool(Device device) {
  std::lock_guard lock(mutex);
  pool(device).open = 0;
}

void release_pool(Device device, int id) {
  std::lock_guard lock(mutex);
  Pool& p = pool(device);
  auto it = p.apart.find(id);
  if (it == p.apart.end()) return;
  for (auto& [capacity, blocks] : it->second)
    p.free[capacity].insert(p.free[capacity].end(), blocks.begin(), blocks.end());
  p.apart.erase(it);
}

CheckedMemory::CheckedMemory() {
  std::lock_guard lock(mutex);
  if (checking++ == 0) damaged_count = 0;
}

CheckedMemory::~CheckedMemory() {
  std::lock_guard lock(mutex);
  if (--checking == 0) guarded_blocks().clear();
}

int CheckedMemory::damaged() const {
  std::lock_guard lock(mutex);
  int live = 0;
  for (const Storage* s : guarded_blocks()) live += !guard_intact(*s);
  return damaged_count + live;
}

}  // namespace basis::core
