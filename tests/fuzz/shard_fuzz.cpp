// Any bytes as a token file of each kind, and a valid HDF5 shard with any edits: every id that is read is below the
// bound the source states, or core::Error.
#include <cstdlib>

#include "core/error.h"
#include "tests/fuzz/scratch.h"
#include "trainers/data/shard.h"
#include "trainers/data/source.h"

namespace {

using namespace basis;

std::vector<uint8_t> valid_shard() {
  std::vector<uint32_t> tokens(200);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = uint32_t(i % 256);
  std::vector<uint64_t> documents{0, 50, 120};
  auto path = fuzz::scratch("valid.h5");
  trainers::write_shard(path, tokens, documents, *trainers::byte_tokenizer());
  return fuzz::read(path);
}

void read_all(const trainers::TokenSource& source) {
  std::vector<int32_t> ids(size_t(source.size()));
  if (ids.size() > 1u << 20) std::abort();  // no input is that long
  source.read(0, source.size(), ids.data());
  for (int32_t id : ids)
    if (id < 0 || id >= source.vocab_bound()) std::abort();
  int64_t last = -1;
  for (int64_t start : source.doc_offsets()) {
    if (start <= last || start > source.size()) std::abort();
    last = start;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<uint8_t> valid = valid_shard();
  static const char* names[] = {"shard.h5", "tokens.bin", "text.txt"};
  if (size == 0) return 0;
  int kind = data[0] % 4;
  std::vector<uint8_t> file(data + 1, data + size);
  if (kind == 3) file = fuzz::edited(valid, data + 1, size - 1);
  auto path = fuzz::write(names[kind % 3], file.data(), file.size());
  trainers::SourceOptions options{.vocab_size = data[0] & 4 ? 256 : 0, .tokenizer = trainers::byte_tokenizer()};
  try {
    read_all(*trainers::open_source(path, options));
  } catch (const core::Error&) {
  }
  return 0;
}
