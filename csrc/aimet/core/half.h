// float16 and bfloat16 as bits, and their conversion to and from float: exact, or rounded to
// nearest even. The same bits everywhere, but for those of a NaN: the device does not keep them.
#pragma once

#include "aimet/core/macros.h"

#include <cstdint>

namespace aimet::core {

struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

#if defined(__CUDA_ARCH__)
AIMET_HOST_DEVICE std::int32_t bits_of(float x) {
  return __float_as_int(x);
}
AIMET_HOST_DEVICE float float_of(std::int32_t bits) {
  return __int_as_float(bits);
}
#else
AIMET_HOST_DEVICE std::int32_t bits_of(float x) {
  return __builtin_bit_cast(std::int32_t, x);
}
AIMET_HOST_DEVICE float float_of(std::int32_t bits) {
  return __builtin_bit_cast(float, bits);
}
#endif

AIMET_HOST_DEVICE float to_float(Half x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
#else
  // Signed numbers throughout: SSE2 cannot compare unsigned ones, and would not be used.
  const std::int32_t sign = (x.bits & 0x8000) << 16;
  const std::int32_t magnitude = x.bits & 0x7fff;
  // Moves exponent and mantissa into place and corrects the exponent's bias (15 to 127).
  const std::int32_t normal = (magnitude << 13) + (112 << 23);
  const std::int32_t special = (magnitude << 13) | 0x7f800000 | (magnitude > 0x7c00 ? 0x400000 : 0);
  const std::int32_t subnormal = bits_of(static_cast<float>(magnitude) * 0x1p-24f);
  const std::int32_t finite = magnitude < 0x0400 ? subnormal : normal;
  return float_of(sign | (magnitude >= 0x7c00 ? special : finite));
#endif
}

AIMET_HOST_DEVICE Half to_half(float x) {
#if defined(__CUDA_ARCH__)
  Half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  const std::int32_t sign = (bits_of(x) >> 16) & 0x8000;
  const std::int32_t magnitude = bits_of(x) & 0x7fffffff;
  // Half a unit of the last place that stays, less one when that place is even: round half to even.
  const std::int32_t rebased = magnitude - (112 << 23);
  const std::int32_t normal = (rebased + 0xfff + ((rebased >> 13) & 1)) >> 13;
  // Next to 0.5 a float's unit is 2^-24, that of subnormal halves: the addition rounds.
  const std::int32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const std::int32_t nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  const std::int32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  const std::int32_t number = magnitude >= 0x47800000 ? 0x7c00 : finite;  // 65536 and up
  return {static_cast<std::uint16_t>(sign | (magnitude > 0x7f800000 ? nan : number))};
#endif
}

AIMET_HOST_DEVICE float to_float(BFloat16 x) {
  return float_of(static_cast<std::int32_t>(static_cast<std::uint32_t>(x.bits) << 16));
}

AIMET_HOST_DEVICE BFloat16 to_bfloat16(float x) {
#if defined(__CUDA_ARCH__)
  BFloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((bits_of(x) & 0x7fffffff) > 0x7f800000 ? nan : rounded)};
#endif
}

}  // namespace aimet::core
