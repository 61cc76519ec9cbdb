// The element types of tensors, and their conversion to the type that is computed in: double for double,
// float for everything else. Conversions round to nearest even and are the same bits on every instruction set.
// Included by per-ISA sources: only always_inline functions and templates on local types.
#pragma once

#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "aimet/core/macros.h"
#include "aimet/cpu/kernels.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

template <typename Element>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename Element>
using Compute = typename ComputeType<Element>::type;

AIMET_HOST_DEVICE std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
AIMET_HOST_DEVICE float float_of(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

AIMET_HOST_DEVICE float to_float(Half x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  // Moves exponent and mantissa into place and corrects the exponent's bias (15 to 127).
  const std::uint32_t normal = (magnitude << 13) + (112u << 23);
  const std::uint32_t special = (magnitude << 13) | 0x7f800000u | (magnitude > 0x7c00u ? 0x400000u : 0u);
  const std::uint32_t subnormal = bits_of(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
  const std::uint32_t finite = magnitude < 0x0400u ? subnormal : normal;
  return float_of(sign | (magnitude >= 0x7c00u ? special : finite));
}

AIMET_HOST_DEVICE Half to_half(float x) {
  const std::uint32_t sign = (bits_of(x) >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits_of(x) & 0x7fffffffu;
  // Half a unit of the last place that stays, less one when that place is even: round half to even.
  const std::uint32_t rebased = magnitude - (112u << 23);
  const std::uint32_t normal = (rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13;
  // Next to 0.5 a float's unit is 2^-24, that of subnormal halves: the addition rounds.
  const std::uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const std::uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const std::uint32_t number = magnitude >= 0x47800000u ? 0x7c00u : finite;  // 65536 and up
  return {static_cast<std::uint16_t>(sign | (magnitude > 0x7f800000u ? nan : number))};
}

AIMET_HOST_DEVICE float to_float(BFloat16 x) { return float_of(static_cast<std::uint32_t>(x.bits) << 16); }

AIMET_HOST_DEVICE BFloat16 to_bfloat16(float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

// Returns `count` values of `source` in the compute type: in place when they have it, else in `buffer`.
AIMET_HOST_DEVICE const float* load(const float* source, std::int64_t, float*) { return source; }
AIMET_HOST_DEVICE const double* load(const double* source, std::int64_t, double*) { return source; }
AIMET_HOST_DEVICE const float* load(const Half* source, std::int64_t count, float* buffer) {
  std::int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  }
#endif
  for (; i < count; ++i) buffer[i] = to_float(source[i]);
  return buffer;
}
AIMET_HOST_DEVICE const float* load(const BFloat16* source, std::int64_t count, float* buffer) {
  for (std::int64_t i = 0; i < count; ++i) buffer[i] = to_float(source[i]);
  return buffer;
}

// Where results of the compute type are to be written: `target` itself when it has it, else `buffer`.
AIMET_HOST_DEVICE float* staging(float* target, float*) { return target; }
AIMET_HOST_DEVICE double* staging(double* target, double*) { return target; }
AIMET_HOST_DEVICE float* staging(Half*, float* buffer) { return buffer; }
AIMET_HOST_DEVICE float* staging(BFloat16*, float* buffer) { return buffer; }

// Rounds what lies in the staging area to `target`; nothing to do where they are the same.
AIMET_HOST_DEVICE void store(const float*, std::int64_t, float*) {}
AIMET_HOST_DEVICE void store(const double*, std::int64_t, double*) {}
AIMET_HOST_DEVICE void store(const float* staged, std::int64_t count, Half* target) {
  std::int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(staged + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#endif
  for (; i < count; ++i) target[i] = to_half(staged[i]);
}
AIMET_HOST_DEVICE void store(const float* staged, std::int64_t count, BFloat16* target) {
  for (std::int64_t i = 0; i < count; ++i) target[i] = to_bfloat16(staged[i]);
}

template <typename Element>
struct Tag {
  using type = Element;
};

// Calls `body` with the Tag of the C++ type of `type`.
template <typename Body>
AIMET_HOST_DEVICE void with_element_type(ElementType type, Body&& body) {
  switch (type) {
    case ElementType::kFloat32:
      return body(Tag<float>{});
    case ElementType::kFloat64:
      return body(Tag<double>{});
    case ElementType::kFloat16:
      return body(Tag<Half>{});
    case ElementType::kBFloat16:
      return body(Tag<BFloat16>{});
  }
}

}  // namespace
}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
