#include "trainers/commands/features.h"

#include <fmt/format.h>
#include <hdf5.h>

namespace basis::trainers {
namespace {

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

constexpr Feature kFeatures[] = {
    {"CUDA", kCuda, "training on GPUs", "install the CUDA toolkit (nvcc on PATH), configure again"},
    {"NCCL", kNccl, "several GPUs", "install libnccl-dev beside the CUDA toolkit"},
    {"cuDNN", kCudnn, "faster fused attention on GPUs", "install cuDNN 9 beside the CUDA toolkit"},
    {"MPI", kMpi, "several CPU processes", "apt install libopenmpi-dev"},
    {"PCRE2", kPcre2, "GPT-2's text splitting (bpe)", "apt install libpcre2-dev"},
};

}  // namespace

std::span<const Feature> features() { return kFeatures; }

std::string version_text() {
  std::string with = fmt::format("OpenBLAS, HDF5 {}", H5_VERS_INFO + std::string_view("HDF5 library version: ").size());
  std::string without;
  for (const Feature& f : kFeatures) {
    std::string& list = f.built_in ? with : without;
    list += (list.empty() ? "" : ", ") + std::string(f.name);
  }
  return fmt::format("basis {}\nbuilt with: {}\nwithout: {}\ncompiler: {}", BASIS_VERSION, with,
                     without.empty() ? "nothing" : without, __VERSION__);
}

}  // namespace basis::trainers
