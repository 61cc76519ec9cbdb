// Quantize-dequantize to small floating-point formats: float16, bfloat16, float8, float4, or any
// other of up to 8 bits of exponent and 23 of mantissa.
//
// x = round(input / scale) * scale, where `round` gives the nearest number of the format, ties to
// the even mantissa; subnormal numbers are numbers like others. Formulas: docs/number_formats.md.
//
// `exponent_bits` (2 to 8) and `mantissa_bits` (1 to 23) name the format, with `finite`: no
// infinities (the "fn" of float8e4m3fn), and `unsigned_zero`: no negative zero ("uz"). Beyond the
// largest number, `saturate` gives the largest number; otherwise an infinity, or NaN in formats
// without infinities; formats with neither always saturate. NaN stays NaN.
//
// `input`, `scale` and `block_size`: as in affine.h. Differentiable in `input` and `scale`
// (straight-through: rounding has derivative 1, saturation 0).
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <array>
#include <cstdint>
#include <tuple>

namespace aimet {

AIMET_API at::Tensor quantize_dequantize_float(
    const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
    std::int64_t mantissa_bits, bool finite = false, bool unsigned_zero = false,
    bool saturate = true, at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

// The parts of the gradient, for users who write their own autograd functions.

// Also returns the mask of the values that are not beyond the largest number; its layout is that of
// quantize_dequantize_mask, and quantize_dequantize_mask_backward takes it.
AIMET_API std::tuple<at::Tensor, at::Tensor> quantize_dequantize_float_mask(
    const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
    std::int64_t mantissa_bits, bool finite, bool unsigned_zero, bool saturate,
    at::OptionalIntArrayRef block_size);

// Gradients of input and scale; an empty tensor where `output_mask` is false.
AIMET_API std::tuple<at::Tensor, at::Tensor> quantize_dequantize_float_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
    bool saturate, at::OptionalIntArrayRef block_size, std::array<bool, 2> output_mask);

}  // namespace aimet
