// basis doctor: devices, libraries, what is missing and how to get it.
#include <fmt/format.h>

#include "autograd/registry.h"
#include "core/device.h"
#include "trainers/commands/commands.h"

namespace basis::trainers {
namespace {

struct Library {
  const char* name;
  bool built_in;
  const char* purpose;
  const char* remedy;
};

#if defined(BASIS_HAS_CUDA)
constexpr bool kCuda = true;
#else
constexpr bool kCuda = false;
#endif
#if defined(BASIS_HAS_NCCL)
constexpr bool kNccl = true;
#else
constexpr bool kNccl = false;
#endif
#if defined(BASIS_HAS_CUDNN)
constexpr bool kCudnn = true;
#else
constexpr bool kCudnn = false;
#endif
#if defined(BASIS_HAS_MPI)
constexpr bool kMpi = true;
#else
constexpr bool kMpi = false;
#endif
#if defined(BASIS_HAS_PCRE2)
constexpr bool kPcre2 = true;
#else
constexpr bool kPcre2 = false;
#endif

constexpr Library kLibraries[] = {
    {"CUDA", kCuda, "training on GPUs", "install the CUDA toolkit (nvcc on PATH), configure again"},
    {"NCCL", kNccl, "several GPUs", "install libnccl-dev beside the CUDA toolkit"},
    {"cuDNN", kCudnn, "faster fused attention on GPUs", "install cuDNN 9 beside the CUDA toolkit"},
    {"MPI", kMpi, "several CPU processes", "apt install libopenmpi-dev"},
    {"PCRE2", kPcre2, "GPT-2's text splitting (bpe)", "apt install libpcre2-dev"},
};

}  // namespace

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
    for (const Library& l : kLibraries)
      fmt::print("library  {:<8} {}\n", l.name,
                 l.built_in ? "built in" : fmt::format("missing: needed for {}; {}", l.purpose, l.remedy));
  });
}

}  // namespace basis::trainers
