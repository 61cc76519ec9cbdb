// What rounding a tensor to each of several grids does to it, and to a loss.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

// With e = quantize_dequantize(input) - input and g = grad (zeros without one), for each grid:
//   errors[c] = (sum of e^2, sum of (g e)^2, sum over samples of (sum of g e)^2, number of elements
//   beyond the limits of the grid);  power = sum of input^2.
// `grad`: shape and dtype of `input`. `scale`, `offset`: one pair a grid, all of one shape, which
// broadcasts against `input` or tiles it as in affine.h; `qmin`, `qmax`: likewise one a grid.
// `by_sample`: samples lie along the first dimension; otherwise all of `input` is one.
// Elements are computed as quantize_dequantize does, sums end in float64; deterministic, on the CPU
// with any number of threads. Both results are float64, (grids, 4) and (). Not differentiable.
AIMET_API std::tuple<at::Tensor, at::Tensor> quantization_errors(
    const at::Tensor& input, const std::optional<at::Tensor>& grad, at::TensorList scale,
    at::TensorList offset, at::IntArrayRef qmin, at::IntArrayRef qmax, bool by_sample = false,
    at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

}  // namespace aimet
