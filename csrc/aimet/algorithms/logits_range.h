// The range of a classifier's outputs that changes its probabilities least.
// Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1, "cross entropy".
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

// The limits (min, max), float32 and without dimensions, of the range that makes the cross entropy
// of softmax(quantized logits) against softmax(reference) least.
//   logits: what the quantizer will see, any floating-point dtype; classes along `class_axis`.
//   reference: logits of the network in floating point, of the same shape; absent: `logits`.
// Symmetric: 256 fractions of the largest absolute value. Asymmetric: both limits, on a raster of
// 16 by 16 over the range of the logits, then around the best, halving the raster down to 1/2048
// of the range. Of equal candidates the first, which is the widest, is taken. Rows that hold NaN or
// infinities do not count; where none is left the range is the minimal one. Quantized in float32,
// summed in float64, with the same bits for any number of threads. Not differentiable.
// TypeError: not floating point. ValueError: shapes, the axis or the grid do not fit.
AIMET_API std::tuple<at::Tensor, at::Tensor> range_from_cross_entropy(
    const at::Tensor& logits, std::int64_t qmin, std::int64_t qmax, bool symmetric,
    const std::optional<at::Tensor>& reference = std::nullopt, std::int64_t class_axis = -1);

}  // namespace aimet
