// Blocks of small numbers that share a scale, which follows from the block's own largest magnitude.
// The only copy of these formulas; CPU and CUDA kernels include it,
// tests/reference/microscaling.py states them independently.
//
// Sources: OCP Microscaling Formats (MX) Specification 1.0, 2023, sections 5 and 6.3 (scale: the
// largest power of two not above the largest magnitude, divided by that of the element format);
// NVIDIA, "Pretraining Large Language Models with NVFP4", 2025 (arXiv 2509.25149), appendix C.
#pragma once

#include "aimet/core/float_format.h"
#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

#include <cstdint>

namespace aimet::core {

// E8M0, the type of MX scales: powers of two with these exponents.
inline constexpr int kMinScaleExponent = -127;
inline constexpr int kMaxScaleExponent = 127;

// MX's int8: -127/64 to 127/64 in steps of 1/64. The same as one bit of exponent, six of mantissa.
AIMET_HOST_DEVICE FloatGrid mx_int8_grid() {
  return {6, 0, 0, 127.0 / 64.0, Overflow::kSaturate, false};
}

// Orders magnitudes as integers, which every processor can take the maximum of. NaN and infinities
// count as zero: the scale of a block is that of its numbers.
template <typename T>
AIMET_HOST_DEVICE typename FloatBits<T>::Signed magnitude_rank(T x) {
  using Bits = typename FloatBits<T>::type;
  using Signed = typename FloatBits<T>::Signed;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(T) - 1);
  constexpr Bits kInfinity = static_cast<Bits>(2 * FloatBits<T>::kBias + 1)
                             << FloatBits<T>::kMantissa;
  const Signed magnitude = static_cast<Signed>(pattern_of(x) & ~kSign);
  return magnitude < static_cast<Signed>(kInfinity) ? magnitude : Signed{0};
}

template <typename T>
struct BlockScale {
  T scale;
  T divisor;  // MX: the inverse, to multiply by: exact, since both are powers of two
};

template <typename T>
AIMET_HOST_DEVICE BlockScale<T> mx_scale(typename FloatBits<T>::Signed largest_rank,
                                              int max_element_exponent) {
  // Subnormal magnitudes give -127, and less for double: both end at the smallest scale.
  const int exponent =
      static_cast<int>(largest_rank >> FloatBits<T>::kMantissa) - FloatBits<T>::kBias -
      max_element_exponent;
  const int clamped = exponent < kMinScaleExponent   ? kMinScaleExponent
                      : exponent > kMaxScaleExponent ? kMaxScaleExponent
                                                     : exponent;
  return {power_of_two<T>(clamped), power_of_two<T>(-clamped)};
}

AIMET_HOST_DEVICE FloatGrid nvfp4_scale_grid() {
  return float_grid({4, 3, true, false}, true);
}

// float4e2m1 elements, float8e4m3fn block scales, one real scale for the tensor. A block's scale is
// at least the smallest of its format, so that small blocks do not vanish, and the product at least
// float's smallest normal number, so that none is divided by zero.
template <typename T>
AIMET_HOST_DEVICE T nvfp4_scale(typename FloatBits<T>::Signed largest_rank, T tensor_scale,
                                const FloatRounding<T>& e4m3) {
  const T smallest = T(0x1p-9);
  const T largest = number_of(static_cast<typename FloatBits<T>::type>(largest_rank));
  const T rounded = round_to_format((largest / T(6)) / tensor_scale, e4m3);
  return maximum(maximum(rounded, smallest) * tensor_scale, T(0x1p-126));
}

// What the rule of MX or that of NVFP4 needs to know.
template <typename T>
struct BlockScaleRule {
  int max_element_exponent;
  T tensor_scale;
  FloatRounding<T> e4m3;
};

template <bool is_nvfp4, typename T>
AIMET_HOST_DEVICE BlockScale<T> block_scale(typename FloatBits<T>::Signed largest_rank,
                                            const BlockScaleRule<T>& rule) {
  if constexpr (is_nvfp4) {
    const T scale = nvfp4_scale(largest_rank, rule.tensor_scale, rule.e4m3);
    return {scale, scale};
  } else {
    return mx_scale<T>(largest_rank, rule.max_element_exponent);
  }
}

template <bool is_nvfp4, typename T>
AIMET_HOST_DEVICE T block_ratio(T x, T divisor) {
  return is_nvfp4 ? x / divisor : x * divisor;
}

}  // namespace aimet::core
