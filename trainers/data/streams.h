// The random streams of the data code. Their top bits keep them apart from those of core::Generator (step << 20).
#pragma once

#include <cstdint>

namespace basis::trainers {

enum class Stream : uint64_t { order = 1, phase, offset, mask, synthetic };

// Stream `number` (an epoch or a sample, below 2^56) of one kind.
constexpr uint64_t stream(Stream kind, uint64_t number) { return ((0x80 | uint64_t(kind)) << 56) | number; }

}  // namespace basis::trainers
