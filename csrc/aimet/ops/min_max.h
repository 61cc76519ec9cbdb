// Smallest and largest finite value of a tensor, per tensor, channel or block.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <tuple>

namespace aimet {

// `shape` broadcasts against `input` or, with `block_size`, tiles it (see affine.h); results have
// this shape and are float32 (float64 for float64 input). NaN and infinities do not count; where
// nothing counts the results are +inf and -inf. Zeros are returned as +0. Not differentiable.
// Deterministic; thread-safe.
AIMET_API std::tuple<at::Tensor, at::Tensor> min_max(
    const at::Tensor& input, at::SymIntArrayRef shape,
    at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

}  // namespace aimet
