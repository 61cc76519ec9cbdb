// From real limits (min, max) to a range the grid can hold, and from there to scale and offset.
// Formulas: docs/numerics.md, "Encodings".
#pragma once

#include "aimet/core/grid.h"
#include "aimet/core/macros.h"
#include "aimet/core/rounding.h"

#include <cstdint>

namespace aimet::core {

template <typename T>
struct Range {
  T min;
  T max;
};

template <typename T>
struct Encoding {
  T scale;
  T offset;
};

// The smallest scale an encoding may have: float32's epsilon, less for grids with very many steps.
template <typename T>
AIMET_HOST_DEVICE T minimal_scale(std::int64_t step_count) {
  constexpr T kEpsilon = T(0x1p-23);
  constexpr T kMinimalRange = T(0.01);
  return minimum(kEpsilon, kMinimalRange / T(step_count));
}

// A quarter of the largest float32: every sum and product below stays finite.
template <typename T>
AIMET_HOST_DEVICE T largest_limit() {
  return T(0x1.fffffep125);
}

// The range of a symmetric grid that covers [min, max], min <= 0 <= max: zero lies on code 0
// (signed) and the limits are whole steps. The negative side has one step more, and is used.
template <typename T>
AIMET_HOST_DEVICE Range<T> symmetric_range(T min, T max, std::int64_t step_count) {
  const GridSteps steps = grid_steps(0, step_count);
  const T negative = T(steps.negative);
  const T positive = T(steps.positive);
  // With 2 bits (codes -2..1) a scale of max / 1 would leave half of the grid unused, so the
  // positive limit may lie one step outside; with 1 bit there is no positive code at all.
  const T covering = step_count == 3 || step_count == 1 ? positive + T(1) : positive;
  const T scale = maximum(max / covering, -min / negative);
  return {-negative * scale, positive * scale};
}

// Extends [min, max] to a range that holds zero, is at least minimal_scale() wide per step, and,
// when symmetric, consists of whole steps on both sides of zero. +inf/-inf (nothing was seen) give
// the minimal range; NaN stays NaN.
template <typename T>
AIMET_HOST_DEVICE Range<T> range_from_min_max(T min, T max, std::int64_t step_count,
                                              bool is_symmetric) {
  if (min != min) return {min, min};
  if (max != max) return {max, max};
  const T limit = largest_limit<T>();
  min = clamp(min, -limit, T(0));
  max = clamp(max, T(0), limit);
  const T smallest = minimal_scale<T>(step_count);
  if ((max - min) / T(step_count) < smallest) {
    const GridSteps steps = grid_steps(0, step_count);
    if (is_symmetric) {
      min = min - smallest * T(steps.negative);
      max = max + smallest * T(steps.positive);
    } else {
      max = max + smallest * T(step_count);
    }
  }
  if (is_symmetric) return symmetric_range(min, max, step_count);
  return {min, max};
}

template <typename T>
AIMET_HOST_DEVICE T scale_from_range(Range<T> range, std::int64_t qmin, std::int64_t qmax) {
  const std::int64_t step_count = qmax - qmin;
  const T scale = (range.max - range.min) / T(step_count);
  const T smallest = minimal_scale<T>(step_count);
  return scale < smallest ? smallest : scale;  // NaN stays NaN
}

// Code -offset represents zero. Symmetric: the middle of the grid, 0 for the signed grid.
template <typename T>
AIMET_HOST_DEVICE T offset_from_range(Range<T> range, T scale, std::int64_t qmin, std::int64_t qmax,
                                      bool is_symmetric) {
  // 0 - x and not -x: the offset of the signed grid must be +0.
  if (is_symmetric) return T(0) - round_half_even(T(qmin + qmax) / T(2));
  return clamp(round_half_even(range.min / scale) - T(qmin), -T(qmax), -T(qmin)) + T(0);
}

template <typename T>
AIMET_HOST_DEVICE Encoding<T> encoding_from_range(Range<T> range, std::int64_t qmin,
                                                  std::int64_t qmax, bool is_symmetric) {
  const T scale = scale_from_range(range, qmin, qmax);
  return {scale, offset_from_range(range, scale, qmin, qmax, is_symmetric)};
}

}  // namespace aimet::core
