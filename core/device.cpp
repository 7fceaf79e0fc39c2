#include "core/device.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/error.h"

namespace basis::core {
namespace {

void* cpu_allocate(int, size_t bytes) {
  constexpr size_t alignment = 64;
  void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!p)
    throw Error({.where = "memory",
                 .expected = std::to_string(bytes) + " bytes on cpu",
                 .got = "out of memory",
                 .remedy = "lower micro_batch, seq_len or the model size"});
  return p;
}

constexpr Backend kCpu = {
    .count = [] { return 1; },
    .allocate = cpu_allocate,
    .release = [](int, void* p, size_t) { std::free(p); },
    .copy = [](Device, void* dst, Device, const void* src, size_t bytes) { std::memcpy(dst, src, bytes); },
    .fill_bytes = [](int, void* dst, int byte, size_t bytes) { std::memset(dst, byte, bytes); },
    .synchronize = [](int) {},
    .time =
        [](int, const std::function<void()>& work) {
          auto start = std::chrono::steady_clock::now();
          work();
          return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        },
    .total_memory = [](int) { return size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGE_SIZE)); },
    .describe = [](int) { return std::to_string(std::thread::hardware_concurrency()) + " hardware threads"; },
};

Backend table[kDeviceTypes] = {kCpu, {}};

}  // namespace

std::string_view name_of(DeviceType type) { return type == DeviceType::cpu ? "cpu" : "cuda"; }

std::string name_of(Device device) { return device.is_cpu() ? "cpu" : "cuda:" + std::to_string(device.index); }

bool set_backend(DeviceType type, const Backend& b) {
  table[int(type)] = b;
  return true;
}

bool has_backend(DeviceType type) { return table[int(type)].count != nullptr; }

const Backend& backend(DeviceType type) {
  if (!has_backend(type))
    throw Error({.where = std::string(name_of(type)),
                 .expected = "a backend",
                 .got = "not built in",
                 .remedy = "install the CUDA toolkit and build again, or use run.device: cpu",
                 .code = ExitCode::usage});
  return table[int(type)];
}

int device_count(DeviceType type) { return has_backend(type) ? table[int(type)].count() : 0; }

double time_on(Device device, const std::function<void()>& work) {
  return backend(device.type).time(device.index, work);
}
void synchronize(Device device) { backend(device.type).synchronize(device.index); }

static bool only_deterministic = true;
bool deterministic() { return only_deterministic; }
void set_deterministic(bool on) { only_deterministic = on; }

}  // namespace basis::core
