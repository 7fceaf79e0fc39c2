// CRC-32C: the processor's instruction where the build allows it, a table elsewhere.
#include <array>
#include <cstring>

#include "trainers/hdf5.h"
#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace basis::trainers {
namespace {

#if defined(__SSE4_2__)
uint32_t update(uint32_t crc, const unsigned char* p, size_t n) {
  uint64_t wide = crc;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  for (crc = uint32_t(wide); n > 0; ++p, --n) crc = _mm_crc32_u8(crc, *p);
  return crc;
}
#else
constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0x82F63B78u : 0);
    table[i] = c;
  }
  return table;
}

uint32_t update(uint32_t crc, const unsigned char* p, size_t n) {
  static constexpr std::array<uint32_t, 256> table = make_table();
  for (; n > 0; ++p, --n) crc = (crc >> 8) ^ table[(crc ^ *p) & 0xff];
  return crc;
}
#endif

}  // namespace

uint32_t crc32c(const void* bytes, size_t size, uint32_t previous) {
  return ~update(~previous, static_cast<const unsigned char*>(bytes), size);
}

}  // namespace basis::trainers
