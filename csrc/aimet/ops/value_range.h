// The range with the least squared error on the values themselves, without a histogram between:
// for weights, of which a channel has few and all are known.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <cstdint>
#include <tuple>

namespace aimet {

// `input`: any floating-point dtype; NaN and infinities do not count. `shape`, `block_size`: as in
// min_max(); the results have this shape, are float32, hold zero and cover the minimal range where
// nothing counts. Symmetric: 256 fractions of the largest absolute value, then the best scale for
// the codes of the best (sum x q / sum q^2) until that gains nothing. Asymmetric: both limits, on a
// raster that gets finer around the best. Computed in float32, deterministic. Not differentiable.
AIMET_API std::tuple<at::Tensor, at::Tensor> range_from_values(
    const at::Tensor& input, at::SymIntArrayRef shape, std::int64_t qmin, std::int64_t qmax,
    bool symmetric, at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

}  // namespace aimet
