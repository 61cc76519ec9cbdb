// From observed limits to the range of a grid, and from a range to scale and offset.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace aimet {

// The smallest range of the grid [qmin, qmax] that holds [min, max] and zero. Symmetric: whole
// steps on both sides of zero, ceil(n / 2) of them below for n = qmax - qmin. Strict: without the
// lowest code, so that both sides are equal (pass qmin + 1 on to encoding_from_range); only for
// symmetric grids. At least float32's epsilon wide per step. min = +inf, max = -inf (nothing was
// seen) gives the minimal range. Not differentiable.
AIMET_API std::tuple<at::Tensor, at::Tensor> range_from_min_max(const at::Tensor& min,
                                                                const at::Tensor& max,
                                                                std::int64_t qmin,
                                                                std::int64_t qmax, bool symmetric,
                                                                bool strict = false);

// scale = (max - min) / (qmax - qmin), at least the minimal scale; offset = -rne((qmin + qmax) / 2)
// (0 for the signed grid) when symmetric, else clamp(rne(min / scale) - qmin, -qmax, -qmin).
// Differentiable in min and max (straight-through).
AIMET_API std::tuple<at::Tensor, at::Tensor> encoding_from_range(const at::Tensor& min,
                                                                 const at::Tensor& max,
                                                                 std::int64_t qmin,
                                                                 std::int64_t qmax, bool symmetric);

}  // namespace aimet
