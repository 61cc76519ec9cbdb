// The range of what a normalization reads that changes its result least.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

// The limits (min, max), float32 and without dimensions, of the range that makes the squared error
// of LayerNorm(quantized input) against LayerNorm(input) least, over the last dimension; `rms`: of
// RMSNorm. A few values that are far larger than all others, as transformers have them, decide
// about the squared error of the input, but hardly about that of the normalized values.
//   input: any floating-point dtype, (..., channels).
//   weight: (channels), of the normalization; absent: ones.
// Candidates as in range_from_cross_entropy (logits_range.h), the best taken in the same way. Rows
// that hold NaN or infinities do not count; where none is left the range is the minimal one.
// Quantized in float32, summed in float64, with the same bits for any number of threads. Not
// differentiable. TypeError: not floating point. ValueError: shapes or the grid do not fit, or
// `eps` is negative.
AIMET_API std::tuple<at::Tensor, at::Tensor> range_before_norm(
    const at::Tensor& input, const std::optional<at::Tensor>& weight, double eps,
    std::int64_t qmin, std::int64_t qmax, bool symmetric, bool rms = false);

}  // namespace aimet
