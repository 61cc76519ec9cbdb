// Rounding to the nearest integer, ties to the even one: the only rounding the library uses
// (the rule of ONNX QuantizeLinear and of torch.round).
#pragma once

#include "aimet/core/macros.h"

namespace aimet::core {

// Exact for every value; keeps the sign of zero; NaN and infinities are returned as they are.
AIMET_HOST_DEVICE float round_half_even(float x) {
#if defined(__CUDA_ARCH__)
  return rintf(x);
#elif defined(__SSE4_1__) || defined(__aarch64__)
  return __builtin_rintf(x);
#else
  // SSE2 has no rounding instruction and rintf would be one library call per value. Adding 2^23
  // leaves no bits for a fraction, so the addition itself rounds, to even; larger values have no
  // fraction.
  const float magnitude = __builtin_fabsf(x);
  const float rounded = __builtin_copysignf((magnitude + 0x1p23f) - 0x1p23f, x);
  return magnitude < 0x1p23f ? rounded : x;
#endif
}

AIMET_HOST_DEVICE double round_half_even(double x) {
#if defined(__CUDA_ARCH__)
  return rint(x);
#elif defined(__SSE4_1__) || defined(__aarch64__)
  return __builtin_rint(x);
#else
  const double magnitude = __builtin_fabs(x);
  const double rounded = __builtin_copysign((magnitude + 0x1p52) - 0x1p52, x);
  return magnitude < 0x1p52 ? rounded : x;
#endif
}

// NaN stays NaN: both comparisons are false for it.
template <typename T>
AIMET_HOST_DEVICE T clamp(T x, T low, T high) {
  const T raised = x < low ? low : x;
  return raised > high ? high : raised;
}

template <typename T>
AIMET_HOST_DEVICE T minimum(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
AIMET_HOST_DEVICE T maximum(T a, T b) {
  return a < b ? b : a;
}

// True for numbers, false for NaN and infinities.
AIMET_HOST_DEVICE bool is_finite(float x) {
  return __builtin_fabsf(x) <= 0x1.fffffep127f;
}
AIMET_HOST_DEVICE bool is_finite(double x) {
  return __builtin_fabs(x) <= 0x1.fffffffffffffp1023;
}

}  // namespace aimet::core
