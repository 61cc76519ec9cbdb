// The element types of tensors, and their conversion to the type that is computed in: double for
// double, float for everything else. Conversions round to nearest even and are the same bits on
// every instruction set. Included by per-ISA sources: only always_inline functions and templates on
// local types.
#pragma once

#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "aimet/core/half.h"
#include "aimet/core/macros.h"
#include "aimet/cpu/kernels.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

using core::BFloat16;
using core::Half;
using core::to_bfloat16;
using core::to_float;
using core::to_half;

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

// Returns `count` values of `source` in the compute type: in place when they have it, else in
// `buffer`.
AIMET_HOST_DEVICE const float* load(const float* source, std::int64_t, float*) {
  return source;
}
AIMET_HOST_DEVICE const double* load(const double* source, std::int64_t, double*) {
  return source;
}
AIMET_HOST_DEVICE const float* load(const Half* source, std::int64_t count, float* buffer) {
  std::int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(
        buffer + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  }
#endif
  for (; i < count; ++i) buffer[i] = to_float(source[i]);
  return buffer;
}
AIMET_HOST_DEVICE const float* load(const BFloat16* source, std::int64_t count, float* buffer) {
  for (std::int64_t i = 0; i < count; ++i) buffer[i] = to_float(source[i]);
  return buffer;
}

// Where results of the compute type are to be written: `target` itself when it has it, else
// `buffer`.
AIMET_HOST_DEVICE float* staging(float* target, float*) {
  return target;
}
AIMET_HOST_DEVICE double* staging(double* target, double*) {
  return target;
}
AIMET_HOST_DEVICE float* staging(Half*, float* buffer) {
  return buffer;
}
AIMET_HOST_DEVICE float* staging(BFloat16*, float* buffer) {
  return buffer;
}

// Rounds what lies in the staging area to `target`; nothing to do where they are the same.
AIMET_HOST_DEVICE void store(const float*, std::int64_t, float*) {}
AIMET_HOST_DEVICE void store(const double*, std::int64_t, double*) {}
AIMET_HOST_DEVICE void store(const float* staged, std::int64_t count, Half* target) {
  std::int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(staged + i),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
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
