// Integer arithmetic of targets without floating point: a real ratio as a 32-bit multiplier and a
// shift, the product of an accumulator and such a ratio rounded back to an integer, and the sum of
// two tensors on different grids. The only copy of these formulas.
//
// Sources: Jacob et al. 2018 (arXiv 1712.05877), section 2.2 (multiplier and shift) and appendix
// A.2 (addition); the rounding rules are those of gemmlowp's fixedpoint.h, of TensorFlow Lite's
// reference kernels and of CMSIS-NN's arm_nn_requantize.
#pragma once

#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

#include <cstdint>

namespace aimet::core {

// Products of a 64-bit accumulator and a multiplier.
__extension__ typedef __int128 WideInteger;

// How the product of an accumulator and a fixed-point ratio becomes an integer.
enum class RequantizationRule : std::int8_t {
  // Twice: the high half of the doubled product, to nearest with ties upwards (gemmlowp:
  // SaturatingRoundingDoublingHighMul), then divided by the power of two, to nearest with ties away
  // from zero (RoundingDivideByPOT). TensorFlow Lite's rule and CMSIS-NN's unless they are built
  // with single rounding.
  kGemmlowp,
  // Once: floor(product / 2^n + 1/2), ties upwards. TensorFlow Lite and CMSIS-NN with single
  // rounding.
  kSingle,
  // Once, ties to even: the rule of QuantizeLinear on the same product.
  kHalfEven,
};

// ratio = multiplier * 2^(shift - 31), multiplier in [2^30, 2^31) or 0.
struct FixedPoint {
  std::int32_t multiplier;
  std::int32_t shift;
};

// Ratios from here on have no shift that every rule can apply.
inline constexpr double kRatioLimit = 0x1p30;

// 0 <= ratio < kRatioLimit; below 2^-32 it is 0. The mantissa is rounded with ties away from zero.
AIMET_HOST_DEVICE FixedPoint fixed_point(double ratio) {
  int exponent = 0;
  const double mantissa = __builtin_frexp(ratio, &exponent);
  auto multiplier = static_cast<std::int64_t>(__builtin_round(mantissa * 0x1p31));
  if (multiplier == std::int64_t{1} << 31) {
    multiplier /= 2;
    ++exponent;
  }
  if (multiplier == 0 || exponent < -31) return {0, 0};
  return {static_cast<std::int32_t>(multiplier), exponent};
}

AIMET_HOST_DEVICE double ratio_of(FixedPoint ratio) {
  return __builtin_ldexp(static_cast<double>(ratio.multiplier), ratio.shift - 31);
}

// The high half of the doubled product of a 32-bit multiplier and a value.
AIMET_HOST_DEVICE std::int64_t rounding_doubling_high_product(WideInteger value,
                                                              std::int32_t multiplier) {
  const WideInteger product = value * multiplier;
  const WideInteger nudge = product >= 0 ? (WideInteger{1} << 30) : 1 - (WideInteger{1} << 30);
  return static_cast<std::int64_t>((product + nudge) / (WideInteger{1} << 31));  // towards zero
}

// value / 2^exponent to nearest, ties away from zero; 0 <= exponent < 63.
AIMET_HOST_DEVICE std::int64_t rounding_divide_by_power_of_two(std::int64_t value, int exponent) {
  const std::int64_t mask = (std::int64_t{1} << exponent) - 1;
  const std::int64_t remainder = value & mask;
  const std::int64_t threshold = (mask >> 1) + (value < 0 ? 1 : 0);
  return (value >> exponent) + (remainder > threshold ? 1 : 0);
}

// value * ratio as an integer; nothing overflows for values of up to 64 bits.
AIMET_HOST_DEVICE std::int64_t requantized(std::int64_t value, FixedPoint ratio,
                                           RequantizationRule rule) {
  if (rule == RequantizationRule::kGemmlowp) {
    const int left = ratio.shift > 0 ? ratio.shift : 0;
    const int right = ratio.shift > 0 ? 0 : -ratio.shift;
    const WideInteger shifted = WideInteger{value} * (WideInteger{1} << left);
    return rounding_divide_by_power_of_two(
        rounding_doubling_high_product(shifted, ratio.multiplier), right);
  }
  const int bits = 31 - ratio.shift;
  const WideInteger product = WideInteger{value} * ratio.multiplier;
  const WideInteger half = WideInteger{1} << (bits - 1);
  if (rule == RequantizationRule::kSingle) {
    return static_cast<std::int64_t>((product + half) >> bits);
  }
  const WideInteger below = product >> bits;
  const WideInteger remainder = product - (below << bits);
  const bool is_up = remainder > half || (remainder == half && (below & 1) != 0);
  return static_cast<std::int64_t>(below + (is_up ? 1 : 0));
}

// The code of a grid: the requantized value around the zero point, limited to the grid.
AIMET_HOST_DEVICE std::int64_t requantized_code(std::int64_t value, FixedPoint ratio,
                                                std::int64_t zero_point, std::int64_t qmin,
                                                std::int64_t qmax, RequantizationRule rule) {
  return clamp(requantized(value, ratio, rule) + zero_point, qmin, qmax);
}

// Both operands on a common grid, 2^left_shift times as fine as twice the larger of theirs, so that
// their sum has room in 32 bits.
struct AdditionRatios {
  FixedPoint first;
  FixedPoint second;
  FixedPoint output;
};

AIMET_HOST_DEVICE AdditionRatios addition_ratios(double first_scale, double second_scale,
                                                 double output_scale, int left_shift) {
  const double twice_larger = 2 * (first_scale > second_scale ? first_scale : second_scale);
  return {fixed_point(first_scale / twice_larger), fixed_point(second_scale / twice_larger),
          fixed_point(twice_larger / (__builtin_ldexp(1.0, left_shift) * output_scale))};
}

// `first` and `second`: codes less their zero points.
AIMET_HOST_DEVICE std::int64_t requantized_sum(std::int64_t first, std::int64_t second,
                                               const AdditionRatios& ratios, int left_shift,
                                               RequantizationRule rule) {
  const std::int64_t unit = std::int64_t{1} << left_shift;
  const std::int64_t sum = requantized(first * unit, ratios.first, rule) +
                           requantized(second * unit, ratios.second, rule);
  return requantized(sum, ratios.output, rule);
}

}  // namespace aimet::core
