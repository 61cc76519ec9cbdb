// Requantization multipliers that no accumulator can bring next to a rounding boundary.
//
// An integer layer computes round(multiplier * accumulator). Two correct programs that add the same
// products in different orders get sums that differ in the last bit, and round apart where the
// result lies next to a half. With multiplier = p / q in lowest terms and q odd, every result is a
// multiple of 1 / q, and the closest of them to a half is 1 / (2 q) away: more than sums in float32
// differ while q is small.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace aimet {

// Beyond, the distance from a boundary is of the size of float32's own error.
constexpr int64_t kLargestTieFreeDenominator = 20001;

// For each number the fraction p / q with the smallest odd q (up to kLargestTieFreeDenominator) and
// p > 0 that is at most `tolerance` away, relative; the number itself where there is none, and where
// it is not positive and finite.
//   multiplier: floating-point, any shape. Returns float64 of that shape, on its device.
// ValueError: `tolerance` is not in (0, 1). TypeError: not floating-point.
AIMET_API at::Tensor tie_free_multiplier(const at::Tensor& multiplier, double tolerance);

}  // namespace aimet
