// Quantize, dequantize, and both in one, on tensors.
//
// q = clamp(rne(input / scale) - offset, qmin, qmax);  x = (q + offset) * scale.  `rne` rounds to
// nearest, ties to even. `input`: float16, bfloat16, float32 (computed in float32, rounded once at
// the end) or float64; any shape, any strides. `scale`, `offset`: broadcast against `input`, or,
// with `block_size`, tile it: dimension d of `input` has scale.size(d) * block_size[d] elements
// (aligned to the right; -1: whatever is left). The result has the dtype and the memory order of
// `input`. NaN stays NaN, infinities are clamped. Deterministic; thread-safe. Raises c10::TypeError
// and c10::ValueError (std::exception).
//
// All are differentiable (straight-through: rounding has derivative 1, clamping 0 where it acts).
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <array>
#include <cstdint>
#include <tuple>

namespace aimet {

// Integer codes, in the floating dtype of `input`.
AIMET_API at::Tensor quantize(const at::Tensor& input, const at::Tensor& scale,
                              const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                              at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

AIMET_API at::Tensor dequantize(const at::Tensor& input, const at::Tensor& scale,
                                const at::Tensor& offset,
                                at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

AIMET_API at::Tensor quantize_dequantize(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

// Also returns the limits that min_max (min_max.h) finds in `input`, in the shape of `scale`: what
// calibration observes while the network runs quantized. One pass. The limits have no gradient.
AIMET_API std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dequantize_min_max(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

// The parts of the gradient, for users who write their own autograd functions.

// Also returns the mask of the values inside the grid: uint8, ceil(numel / 8), bit i % 8 of byte i
// / 8 is element i in the memory order of the output.
AIMET_API std::tuple<at::Tensor, at::Tensor> quantize_dequantize_mask(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size);

// `grad` where the mask is 1, else 0; `grad` must have the strides of the output that came with the
// mask.
AIMET_API at::Tensor quantize_dequantize_mask_backward(const at::Tensor& grad,
                                                       const at::Tensor& mask);

// Gradients of input, scale and offset; an empty tensor where `output_mask` is false.
AIMET_API std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dequantize_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask);

}  // namespace aimet
