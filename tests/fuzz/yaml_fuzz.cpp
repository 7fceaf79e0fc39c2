// Any bytes as a config: either a config, whose dump reads back as itself, or a core::Error.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "configs/train_config.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace basis;
  try {
    configs::Config config = configs::parse_config({reinterpret_cast<const char*>(data), size}, "fuzz.yaml");
    std::string dump = configs::dump_yaml(config);
    if (configs::dump_yaml(configs::parse_config(dump, "dump.yaml")) != dump) std::abort();
  } catch (const core::Error&) {
  }
  return 0;
}
