// The integer grid of a quantizer: its lowest and highest code, and how many steps lie on each side
// of zero.
#pragma once

#include "aimet/core/macros.h"

#include <cstdint>

namespace aimet::core {

struct Grid {
  std::int64_t qmin;
  std::int64_t qmax;
};

// Signed: [-2^(b-1), 2^(b-1) - 1]; unsigned: [0, 2^b - 1]. Strict leaves the code -2^(b-1) out, so
// that the signed grid is symmetric around zero; it has no effect on an unsigned grid. 1 <=
// bitwidth <= 32.
AIMET_HOST_DEVICE constexpr Grid integer_grid(int bitwidth, bool is_signed,
                                              bool is_strict = false) {
  const std::int64_t level_count = std::int64_t{1} << bitwidth;
  if (!is_signed) return {0, level_count - 1};
  return {-level_count / 2 + (is_strict ? 1 : 0), level_count / 2 - 1};
}

// A grid of n + 1 codes has n steps. A symmetric grid spends ceil(n/2) of them below zero.
struct GridSteps {
  std::int64_t total;
  std::int64_t negative;
  std::int64_t positive;
};

AIMET_HOST_DEVICE constexpr GridSteps grid_steps(std::int64_t qmin, std::int64_t qmax) {
  const std::int64_t total = qmax - qmin;
  return {total, total - total / 2, total / 2};
}

}  // namespace aimet::core
