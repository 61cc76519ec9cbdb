// A number in [0, 1) for each position of a tensor, from nothing but a seed and the position: the
// same on every device and with any number of threads, and forward and backward agree without a
// mask in memory. The only copy of this formula.
//
// Source of the mixing function: Appleby, MurmurHash3 (fmix32), public domain.
#pragma once

#include "aimet/core/macros.h"

#include <cstdint>

namespace aimet::core {

inline constexpr std::uint32_t kMixFirst = 0x85ebca6bU;
inline constexpr std::uint32_t kMixSecond = 0xc2b2ae35U;

// Every bit of x changes half of the bits of the result.
AIMET_HOST_DEVICE std::uint32_t mix_bits(std::uint32_t x) {
  x = (x ^ (x >> 16)) * kMixFirst;
  x = (x ^ (x >> 13)) * kMixSecond;
  return x ^ (x >> 16);
}

// Both halves of the seed and of the index count. The index is mixed before it meets the seed:
// otherwise two seeds would give the same numbers in another order. 24 bits, so that a float holds
// the result exactly.
AIMET_HOST_DEVICE float uniform_at(std::int64_t seed, std::int64_t index) {
  const auto s = static_cast<std::uint64_t>(seed), i = static_cast<std::uint64_t>(index);
  const std::uint32_t low = mix_bits(static_cast<std::uint32_t>(i)) ^
                            mix_bits(static_cast<std::uint32_t>(s) ^ kMixFirst);
  const std::uint32_t high = static_cast<std::uint32_t>(i >> 32) ^
                             mix_bits(static_cast<std::uint32_t>(s >> 32));
  return static_cast<float>(mix_bits(mix_bits(low) ^ high) >> 8) * 0x1p-24f;
}

}  // namespace aimet::core
