// Masks with one bit an element: bit i % 8 of byte i / 8 is element i.
#pragma once

#include "aimet/core/macros.h"

#include <cstdint>

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// Packs bytes of 0 or 1 into bits; the bits beyond `count` in the last byte are 0.
AIMET_HOST_DEVICE void pack_bits(const std::uint8_t* flags, std::int64_t count,
                                 std::uint8_t* bits) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t eight;
    __builtin_memcpy(&eight, flags + i, 8);
    // Each product bit 56 + j receives flag j alone: no two of the shifted copies meet in one bit.
    bits[i / 8] = static_cast<std::uint8_t>((eight * 0x0102040810204080u) >> 56);
  }
  if (i < count) {
    unsigned last = 0;
    for (std::int64_t j = i; j < count; ++j) last |= static_cast<unsigned>(flags[j]) << (j - i);
    bits[i / 8] = static_cast<std::uint8_t>(last);
  }
}

// The same from bit `first` on, into zeroed memory. Bytes that are not filled may be shared with
// other threads, which fill the rest.
AIMET_HOST_DEVICE void pack_bits_from(const std::uint8_t* flags, std::int64_t first,
                                      std::int64_t count, std::uint8_t* bits) {
  const auto add_to_byte = [&](std::int64_t from, std::int64_t to) {
    unsigned byte = 0;
    for (std::int64_t i = from; i < to; ++i)
      byte |= static_cast<unsigned>(flags[i]) << ((first + i) % 8);
    __atomic_fetch_or(bits + (first + from) / 8, static_cast<std::uint8_t>(byte), __ATOMIC_RELAXED);
  };
  const std::int64_t to_boundary = (8 - first % 8) % 8;
  const std::int64_t head = to_boundary < count ? to_boundary : count;
  if (head > 0) add_to_byte(0, head);
  const std::int64_t whole = (count - head) / 8 * 8;
  if (whole > 0) pack_bits(flags + head, whole, bits + (first + head) / 8);
  if (head + whole < count) add_to_byte(head + whole, count);
}

}  // namespace
}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
