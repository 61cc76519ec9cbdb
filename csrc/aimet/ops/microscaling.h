// Quantize-dequantize in blocks whose scales follow from the values of the block: MX and NVFP4.
//
// Blocks are `block_size` (1 to 1024) neighbors along `axis`; the last one may be shorter. Formulas:
// docs/number_formats.md. `input`: float16, bfloat16, float32 or float64 of at least one dimension.
// NaN stays NaN, infinities saturate; neither counts for the scale. Differentiable in `input`
// (straight-through, 0 for values that saturate); the scale counts as constant. Returns the values
// and the scale of each block: float32 (float64 for float64), the sizes of `input` with
// ceil(size / block_size) along `axis`.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>

namespace aimet {

// `element`: float8e4m3fn, float8e5m2, float6e3m2, float6e2m3, float4e2m1 or int8.
// Without `tensor_scale`: OCP Microscaling, the scale of a block is a power of two, 2^-127 to 2^127.
// With it (one positive element): NVFP4, the scale of a block is a float8e4m3fn number times
// `tensor_scale`, usually max(|input|) / (6 * 448); `element` must be float4e2m1.
AIMET_API std::tuple<at::Tensor, at::Tensor> quantize_dequantize_microscaling(
    const at::Tensor& input, std::string_view element, std::int64_t axis = -1,
    std::int64_t block_size = 32, const std::optional<at::Tensor>& tensor_scale = std::nullopt);

// Also returns the mask of the values that do not saturate; its layout is that of
// quantize_dequantize_mask, and quantize_dequantize_mask_backward takes it.
AIMET_API std::tuple<at::Tensor, at::Tensor, at::Tensor> quantize_dequantize_microscaling_mask(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale);

}  // namespace aimet
