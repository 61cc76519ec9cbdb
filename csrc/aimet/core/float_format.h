// Small floating-point formats: which numbers they hold, and rounding to the nearest of them, ties
// to even. The only copy of these formulas; CPU and CUDA kernels include it,
// tests/reference/float_format.py states them independently.
//
// Sources: IEEE 754-2019; OCP 8-bit Floating Point Specification (OFP8) 1.0, 2023 (e4m3fn, e5m2);
// OCP Microscaling Formats (MX) 1.0, 2023 (e3m2, e2m3, e2m1); Noune et al. 2022 (arXiv 2206.02915),
// the formats without a negative zero.
#pragma once

#include "aimet/core/half.h"
#include "aimet/core/macros.h"

#include <cstdint>

namespace aimet::core {

// One sign bit, then the exponent, then the mantissa; an exponent of zero means a subnormal number.
struct FloatFormat {
  int exponent_bits;
  int mantissa_bits;
  // No infinities: the top exponent holds numbers, too. With 8 bits and more, the pattern of all
  // ones is NaN; below, there is none.
  bool is_finite;
  // No negative zero: its pattern is the only NaN, and the exponent's bias is larger by one.
  bool is_zero_unsigned;
};

enum class Overflow { kSaturate, kInfinity, kNaN };

// The numbers of a format: 0, the multiples of 2^(min_exponent - mantissa_bits) up to
// 2^min_exponent, and from there on those with `mantissa_bits` bits after the leading one, up to
// `largest`; and their negatives.
struct FloatGrid {
  int mantissa_bits;
  int min_exponent;
  int max_exponent;  // that of `largest`
  double largest;
  Overflow overflow;  // what becomes of numbers that are rounded beyond `largest`
  bool is_zero_unsigned;
};

template <typename T>
struct FloatBits;
template <>
struct FloatBits<float> {
  using type = std::uint32_t;
  using Signed = std::int32_t;
  static constexpr int kMantissa = 23;
  static constexpr int kBias = 127;
};
template <>
struct FloatBits<double> {
  using type = std::uint64_t;
  using Signed = std::int64_t;
  static constexpr int kMantissa = 52;
  static constexpr int kBias = 1023;
};

#if defined(__CUDA_ARCH__)
AIMET_HOST_DEVICE std::uint32_t pattern_of(float x) {
  return static_cast<std::uint32_t>(__float_as_int(x));
}
AIMET_HOST_DEVICE std::uint64_t pattern_of(double x) {
  return static_cast<std::uint64_t>(__double_as_longlong(x));
}
AIMET_HOST_DEVICE float number_of(std::uint32_t pattern) {
  return __int_as_float(static_cast<int>(pattern));
}
AIMET_HOST_DEVICE double number_of(std::uint64_t pattern) {
  return __longlong_as_double(static_cast<long long>(pattern));
}
#else
AIMET_HOST_DEVICE std::uint32_t pattern_of(float x) {
  return __builtin_bit_cast(std::uint32_t, x);
}
AIMET_HOST_DEVICE std::uint64_t pattern_of(double x) {
  return __builtin_bit_cast(std::uint64_t, x);
}
AIMET_HOST_DEVICE float number_of(std::uint32_t pattern) {
  return __builtin_bit_cast(float, pattern);
}
AIMET_HOST_DEVICE double number_of(std::uint64_t pattern) {
  return __builtin_bit_cast(double, pattern);
}
#endif

// 2^exponent, for the exponents of normal numbers and (exactly) of float's subnormal ones.
template <typename T>
AIMET_HOST_DEVICE T power_of_two(int exponent) {
  using Bits = typename FloatBits<T>::type;
  constexpr int kMantissa = FloatBits<T>::kMantissa;
  constexpr int kBias = FloatBits<T>::kBias;
  const int field = exponent + kBias;
  return number_of(field > 0 ? static_cast<Bits>(field) << kMantissa
                             : Bits{1} << (kMantissa - 1 + field));
}

AIMET_HOST_DEVICE double largest_number(int max_exponent, int mantissa_bits, int missing_codes) {
  return power_of_two<double>(max_exponent) *
         (2.0 - power_of_two<double>(-mantissa_bits) * (1 + missing_codes));
}

// 1 <= exponent_bits <= 8, 1 <= mantissa_bits <= 23; with 8 exponent bits, infinities and a
// negative zero: then every number of the format is one of float's.
AIMET_HOST_DEVICE FloatGrid float_grid(const FloatFormat& format, bool saturates) {
  const int bias = (1 << (format.exponent_bits - 1)) - (format.is_zero_unsigned ? 0 : 1);
  const bool has_infinity = !format.is_finite && !format.is_zero_unsigned;
  const int max_exponent = (1 << format.exponent_bits) - 1 - bias - (has_infinity ? 1 : 0);
  const bool has_nan = has_infinity || format.is_zero_unsigned ||
                       1 + format.exponent_bits + format.mantissa_bits >= 8;
  const bool nan_takes_code = has_nan && !has_infinity && !format.is_zero_unsigned;
  // With one mantissa bit and infinities, and so on, the formulas hold as well.
  const Overflow overflow = saturates || !has_nan ? Overflow::kSaturate
                            : has_infinity        ? Overflow::kInfinity
                                                  : Overflow::kNaN;
  return {format.mantissa_bits,
          1 - bias,
          max_exponent,
          largest_number(max_exponent, format.mantissa_bits, nan_takes_code ? 1 : 0),
          overflow,
          format.is_zero_unsigned};
}

// A grid, ready to round numbers of type T.
template <typename T>
struct FloatRounding {
  using Bits = typename FloatBits<T>::type;
  T largest;
  T limit;            // larger magnitudes are taken for this one
  T overflow;         // in place of what is rounded beyond `largest`
  T smallest_normal;  // below, the step is that of the subnormal numbers
  T subnormal_anchor;
  T zero;  // -0, or +0 where there is no negative zero
  Bits kept;
  Bits less_than_half;
  Bits last;
  int dropped;
};

template <typename T>
AIMET_HOST_DEVICE FloatRounding<T> rounding_of(const FloatGrid& grid) {
  using Bits = typename FloatBits<T>::type;
  constexpr int kMantissa = FloatBits<T>::kMantissa;
  const T infinity = power_of_two<T>(FloatBits<T>::kBias + 1);
  const int dropped = kMantissa - grid.mantissa_bits;
  FloatRounding<T> rounding{};
  rounding.largest = static_cast<T>(grid.largest);
  rounding.limit = grid.overflow == Overflow::kSaturate ? rounding.largest : infinity;
  rounding.overflow = grid.overflow == Overflow::kNaN
                          ? number_of(static_cast<Bits>(pattern_of(infinity) |
                                                        (Bits{1} << (kMantissa - 1))))
                          : rounding.limit;
  rounding.smallest_normal = power_of_two<T>(grid.min_exponent);
  // Next to this number, the step of T is that of the subnormal numbers: an addition rounds.
  rounding.subnormal_anchor = power_of_two<T>(grid.min_exponent - grid.mantissa_bits + kMantissa);
  rounding.zero = grid.is_zero_unsigned ? T(0) : -T(0);
  rounding.kept = ~((Bits{1} << dropped) - 1);
  rounding.less_than_half = dropped > 0 ? (Bits{1} << (dropped - 1)) - 1 : 0;
  rounding.last = dropped > 0 ? 1 : 0;
  rounding.dropped = dropped;
  return rounding;
}

// The nearest number of the format; of two, the one whose last mantissa bit is 0. NaN stays NaN.
template <typename T>
AIMET_HOST_DEVICE T round_to_format(T x, const FloatRounding<T>& r) {
  using Bits = typename FloatBits<T>::type;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(T) - 1);
  const Bits pattern = pattern_of(x);
  const T magnitude = number_of(static_cast<Bits>(pattern & ~kSign));
  const T limited = magnitude < r.limit ? magnitude : r.limit;  // also for NaN
  // Half a unit of the last bit that stays, less one when that bit is 0: round half to even. A
  // carry out of the mantissa is the next exponent.
  const Bits bits = pattern_of(limited);
  const T normal = number_of(static_cast<Bits>(
      (bits + r.less_than_half + ((bits >> r.dropped) & r.last)) & r.kept));
  const T subnormal = (limited + r.subnormal_anchor) - r.subnormal_anchor;
  const T rounded = limited < r.smallest_normal ? subnormal : normal;
  const T bounded = rounded > r.largest ? r.overflow : rounded;
  const T result = number_of(static_cast<Bits>(pattern_of(bounded) | (pattern & kSign))) + r.zero;
  return x == x ? result : x;
}

// Where the straight-through gradient passes: not beyond the largest number. False for NaN.
template <typename T>
AIMET_HOST_DEVICE bool is_inside_format(T x, const FloatRounding<T>& r) {
  using Bits = typename FloatBits<T>::type;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(T) - 1);
  return number_of(static_cast<Bits>(pattern_of(x) & ~kSign)) <= r.largest;
}

// Rounds x / scale and multiplies by the scale: a true division, as for integers.
template <typename T>
AIMET_HOST_DEVICE T quantize_dequantize_float(T x, T scale, const FloatRounding<T>& r) {
  return round_to_format(x / scale, r) * scale;
}

template <typename T>
struct FloatGradient {
  T input;
  T scale;
};

// Straight-through estimator: rounding has derivative 1, clamping 0.
template <typename T>
AIMET_HOST_DEVICE FloatGradient<T> quantize_dequantize_float_gradient(T grad, T x, T scale,
                                                                     const FloatRounding<T>& r) {
  const T ratio = x / scale;
  const T rounded = round_to_format(ratio, r);
  const bool inside = is_inside_format(ratio, r);
  return {inside ? grad : T(0), grad * (inside ? rounded - ratio : rounded)};
}

}  // namespace aimet::core
