// The kernel table: an operation's implementations by device and dtype. What is not compiled leaves a hole, and calling
// it is one clear error; there are no stub files.
#pragma once

#include "core/device.h"
#include "core/dtype.h"

namespace basis::core {

template <class Signature>
class KernelTable;

template <class... Args>
class KernelTable<void(Args...)> {
 public:
  using Function = void (*)(Args...);
  constexpr explicit KernelTable(const char* name) : name_(name) {}

  bool set(DeviceType device, DType dtype, Function f) {
    table_[int(device)][int(dtype)] = f;
    return true;
  }
  bool has(DeviceType device, DType dtype) const { return table_[int(device)][int(dtype)] != nullptr; }

  // Throws core::Error "softmax: no kernel for cuda/f32" for a hole.
  template <class... Actual>
  void operator()(DeviceType device, DType dtype, Actual&&... args) const {
    Function f = table_[int(device)][int(dtype)];
    if (!f)
      throw Error(
          {.where = name_, .got = "no kernel for " + std::string(name_of(device)) + "/" + std::string(name_of(dtype))});
    f(std::forward<Actual>(args)...);
  }

 private:
  const char* name_;
  Function table_[kDeviceTypes][kDTypes] = {};
};

}  // namespace basis::core

#define BASIS_JOIN_(a, b) a##b
#define BASIS_JOIN(a, b) BASIS_JOIN_(a, b)

// REGISTER_KERNEL(softmax_forward, cpu, f32, forward<float>): at namespace scope, in the file that defines the kernel.
#define REGISTER_KERNEL(table, device, dtype, ...)                            \
  [[maybe_unused]] static const bool BASIS_JOIN(basis_kernel_, __COUNTER__) = \
      (table).set(::basis::core::DeviceType::device, ::basis::core::DType::dtype, __VA_ARGS__);
