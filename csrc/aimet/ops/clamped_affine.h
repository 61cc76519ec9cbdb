// An activation function that clamps (ReLU, ReLU6, Hardtanh) and quantize-dequantize, in one.
//
// The same bits as quantize_dequantize(clamp(input, clamp_min, clamp_max)), forward and backward;
// the clamp's gradient is that of ReLU and Hardtanh: it passes strictly between the bounds. What
// backward keeps is less: one bit an element if only `input` needs a gradient, else `input` itself,
// and never the clamped values. Arguments and errors: affine.h; at least one bound is given, and
// clamp_min <= clamp_max.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

AIMET_API at::Tensor clamp_quantize_dequantize(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size = at::OptionalIntArrayRef());

// Also returns the mask of the values strictly between the bounds and inside the grid, as
// quantize_dequantize_mask (affine.h) does.
AIMET_API std::tuple<at::Tensor, at::Tensor> clamp_quantize_dequantize_mask(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size);

// Gradients of input, scale and offset; an empty tensor where `output_mask` is false.
AIMET_API std::tuple<at::Tensor, at::Tensor, at::Tensor> clamp_quantize_dequantize_backward(
    const at::Tensor& grad, const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask);

namespace ops {

inline constexpr const char* kClamped = "clamp_quantize_dequantize";
inline constexpr const char* kClampedBackward = "_clamp_quantize_dequantize_backward";

void check_clamped(const char* op, const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size);

}  // namespace ops
}  // namespace aimet
