// CUPTI's activity records. Its library comes with the CUDA toolkit; without it the profiler stays unset.
#if defined(BASIS_HAS_CUPTI)
#include "core/profile.h"

#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "core/error.h"

namespace basis::core {
namespace {

constexpr size_t kBuffer = size_t{4} << 20;  // bytes

void check(CUptiResult status) {
  if (status == CUPTI_SUCCESS) return;
  const char* text = "unknown";
  (void)cuptiGetResultString(status, &text);
  throw Error({.where = "cupti", .got = text, .remedy = "profiling may need other rights on this machine"});
}

struct Launch {
  std::string name;
  uint64_t begin, end;  // nanoseconds
};

std::mutex mutex;
std::vector<Launch>& launches() {
  static auto* all = new std::vector<Launch>;  // leaked: CUPTI may call back at exit
  return *all;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(64, kBuffer));
  *size = *buffer ? kBuffer : 0;
  *most_records = 0;  // as many as fit
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  std::lock_guard lock(mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      auto* k = reinterpret_cast<CUpti_ActivityKernel10*>(record);
      launches().push_back({k->name, k->start, k->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      auto* k = reinterpret_cast<CUpti_ActivityMemcpy6*>(record);
      launches().push_back({"copy", k->start, k->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      auto* k = reinterpret_cast<CUpti_ActivityMemset4*>(record);
      launches().push_back({"fill", k->start, k->end});
    }
  }
  std::free(buffer);
}

std::string demangled(const std::string& name) {
  int status = 0;
  std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
  return status == 0 && text ? text.get() : name;
}

std::vector<KernelTime> profile(Device device, const std::function<void()>& work) {
  constexpr CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                          CUPTI_ACTIVITY_KIND_MEMSET};
  static const bool registered = (check(cuptiActivityRegisterCallbacks(give_buffer, take_buffer)), true);
  (void)registered;
  synchronize(device);
  launches().clear();
  for (CUpti_ActivityKind k : kinds) check(cuptiActivityEnable(k));
  work();
  synchronize(device);
  check(cuptiActivityFlushAll(0));
  for (CUpti_ActivityKind k : kinds) check(cuptiActivityDisable(k));
  std::lock_guard lock(mutex);
  std::sort(launches().begin(), launches().end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  std::map<std::string, KernelTime> totals;
  uint64_t busy = launches().empty() ? 0 : launches().front().begin;  // until then
  for (const Launch& l : launches()) {
    KernelTime& t = totals[l.name];
    t.seconds += double(l.end - l.begin) * 1e-9, ++t.launches;
    if (l.begin > busy) t.idle += double(l.begin - busy) * 1e-9;
    busy = std::max(busy, l.end);
  }
  std::vector<KernelTime> times;
  for (auto& [name, time] : totals) times.push_back({demangled(name), time.seconds, time.launches, time.idle});
  std::sort(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return times;
}

[[maybe_unused]] const bool set = (kernel_profiler() = profile, true);

}  // namespace
}  // namespace basis::core
#endif
