// Any bytes as a safetensors file: either a header whose spans lie in the file, or a core::Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/error.h"
#include "trainers/hf/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basis;
  try {
    auto header = trainers::hf::parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz.safetensors");
    uint64_t sum = 0;
    for (const auto& [name, entry] : header.tensors) {
      if (entry.offset < 8 || entry.bytes < 0 || uint64_t(entry.offset) + uint64_t(entry.bytes) > size) std::abort();
      for (int64_t i = 0; i < entry.bytes; ++i) sum += data[entry.offset + i];
    }
    volatile uint64_t read = sum;
    (void)read;
  } catch (const core::Error& e) {
    if (e.code() != core::ExitCode::bad_file) std::abort();
  }
  return 0;
}
