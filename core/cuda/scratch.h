// Memory that a library fills right before the call that uses it and nobody reads afterwards: recorded fills of it need
// not wait for the kernel before them (core/cuda/graph.cu).
#pragma once

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

namespace basis::core {

class ScratchRanges {
 public:
  static ScratchRanges& all() {
    static auto* ranges = new ScratchRanges;  // leaked, as what it describes
    return *ranges;
  }
  void add(const void* begin, size_t bytes) {
    std::lock_guard lock(mutex_);
    ranges_.emplace_back(static_cast<const char*>(begin), bytes);
  }
  bool contain(const void* p) {
    std::lock_guard lock(mutex_);
    for (auto [begin, bytes] : ranges_)
      if (p >= begin && p < begin + bytes) return true;
    return false;
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<const char*, size_t>> ranges_;
};

}  // namespace basis::core
