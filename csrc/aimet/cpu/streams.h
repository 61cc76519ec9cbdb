// Writing past the caches ("non-temporal"): whole lines go to memory without being read first.
#pragma once

#include "aimet/core/macros.h"

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// Copies `count` elements from `source`, a buffer of 64-byte alignment, to `target`.
template <typename Element>
AIMET_HOST_DEVICE void stream(const Element* source, std::int64_t count, Element* target) {
  std::int64_t i = 0;
#if defined(__SSE2__)
#if defined(__AVX512F__)
  using Vector = __m512i;
#elif defined(__AVX__)
  using Vector = __m256i;
#else
  using Vector = __m128i;
#endif
  constexpr std::int64_t kStep = sizeof(Vector) / sizeof(Element);
  if (reinterpret_cast<std::uintptr_t>(target) % sizeof(Vector) == 0) {
    for (; i + kStep <= count; i += kStep) {
      const auto* from = reinterpret_cast<const Vector*>(source + i);
      auto* to = reinterpret_cast<Vector*>(target + i);
#if defined(__AVX512F__)
      _mm512_stream_si512(to, _mm512_load_si512(from));
#elif defined(__AVX__)
      _mm256_stream_si256(to, _mm256_load_si256(from));
#else
      _mm_stream_si128(to, _mm_load_si128(from));
#endif
    }
  }
#endif
  for (; i < count; ++i) target[i] = source[i];
}

// Other threads see what was streamed before this.
AIMET_HOST_DEVICE void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE
