// basis doctor: devices, libraries, what is missing and how to get it.
#include <fmt/format.h>

#include "autograd/registry.h"
#include "core/device.h"
#include "trainers/commands/commands.h"
#include "trainers/commands/features.h"

namespace basis::trainers {
void add_doctor_command(CLI::App& app, int&) {
  app.add_subcommand("doctor", "Devices, libraries, versions, what is missing")->callback([] {
    fmt::print("basis {}, {} ops\n", BASIS_VERSION, autograd::registry().size());
    for (auto type : {core::DeviceType::cpu, core::DeviceType::cuda}) {
      int n = core::device_count(type);
      for (int i = 0; i < n; ++i)
        fmt::print("device   {:<8} {}, {:.1f} GiB\n", name_of(core::Device{type, i}), core::backend(type).describe(i),
                   double(core::backend(type).total_memory(i)) / double(1 << 30));
      if (n == 0)
        fmt::print("device   {:<8} {}\n", name_of(type),
                   core::has_backend(type) ? "built in, but no GPU or driver here" : "not built in");
    }
    for (const Feature& l : features())
      fmt::print("library  {:<8} {}\n", l.name,
                 l.built_in ? "built in" : fmt::format("missing: needed for {}; {}", l.purpose, l.remedy));
  });
}

}  // namespace basis::trainers
