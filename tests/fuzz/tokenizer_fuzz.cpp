// Any bytes as tokenizer files: a tokenizer whose ids stay below its size and which survives its own serialisation, or
// core::Error. Files that come in pairs are parted by a zero byte.
#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "tests/fuzz/scratch.h"
#include "trainers/data/tokenizer.h"

namespace {

using namespace basis;

void use(const trainers::Tokenizer& t) {
  for (std::string_view text : {"Hello, it's 2 words  \n", "\xc3\xa9t\xc3\xa9 \xe6\x97\xa5", "\xff\x00[MASK]"}) {
    std::vector<uint32_t> ids;
    try {
      ids = t.encode(text);
    } catch (const core::Error&) {
      continue;  // a vocabulary without these characters
    }
    for (uint32_t id : ids)
      if (int64_t(id) >= t.vocab_size()) std::abort();
    t.decode(ids);
  }
  if (trainers::parse_tokenizer(t.serialise())->hash() != t.hash()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t *begin = data + 1, *end = data + size, *zero = std::find(begin, end, uint8_t{0});
  try {
    if (data[0] % 4 == 0) {
      use(*trainers::parse_tokenizer({reinterpret_cast<const char*>(begin), size - 1}));
    } else if (data[0] % 4 == 1) {
      use(*trainers::load_tokenizer(fuzz::write("tokenizer.json", begin, size - 1)));
    } else if (data[0] % 4 == 2) {
      fuzz::write("merges.txt", zero == end ? end : zero + 1, zero == end ? 0 : size_t(end - zero - 1));
      use(*trainers::load_tokenizer(fuzz::write("vocab.json", begin, size_t(zero - begin))));
    } else {
      use(*trainers::load_tokenizer(fuzz::write("vocab.txt", begin, size - 1)));
    }
  } catch (const core::Error&) {
  }
  return 0;
}
