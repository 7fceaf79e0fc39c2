// Devices, and the table of services a device backend plugs in (memory, copies, synchronisation). The CPU backend is
// always there; core/cuda fills the CUDA slot when it is compiled, and a hole is one clear error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace basis::core {

enum class DeviceType : uint8_t { cpu, cuda };
inline constexpr int kDeviceTypes = 2;

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
  bool is_cpu() const { return type == DeviceType::cpu; }
  bool is_cuda() const { return type == DeviceType::cuda; }
};
inline constexpr Device cpu{};
inline Device cuda(int index = 0) { return {DeviceType::cuda, index}; }

std::string_view name_of(DeviceType type);  // "cpu", "cuda"
std::string name_of(Device device);         // "cpu", "cuda:1"

struct Backend {
  int (*count)();                                           // usable devices; 0 when there is no driver
  void* (*allocate)(int index, size_t bytes);               // raw memory; throws core::Error when there is none
  void (*release)(int index, void* pointer, size_t bytes);  // never throws
  void (*copy)(Device to, void* dst, Device from, const void* src, size_t bytes);  // ordered on the current stream
  void (*fill_bytes)(int index, void* dst, int byte, size_t bytes);
  void (*synchronize)(int index);                                // waits for the current stream
  double (*time)(int index, const std::function<void()>& work);  // seconds the device is busy with what `work` submits
  size_t (*total_memory)(int index);                             // bytes
  std::string (*describe)(int index);                            // "NVIDIA H100 80GB HBM3, sm_90, ..."
};

// Registers a backend; returns true so that it can initialise a static.
bool set_backend(DeviceType type, const Backend& backend);
// Throws core::Error naming what is missing when the backend is not compiled.
const Backend& backend(DeviceType type);
bool has_backend(DeviceType type);
// Devices of this type that can be used now (0 when the backend is missing).
int device_count(DeviceType type);
void synchronize(Device device);
// Seconds from the start to the end, on the device, of what `work` submits to the current stream. Waits for it.
double time_on(Device device, const std::function<void()>& work);

// Whether kernels whose bits may differ between two runs are refused where a reproducible one exists. True at start.
bool deterministic();
void set_deterministic(bool on);

}  // namespace basis::core
