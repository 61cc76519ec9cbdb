// What the operators of floating-point formats and of microscaling demand of their arguments.
#pragma once

#include "aimet/core/float_format.h"
#include "aimet/core/microscaling.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace aimet::ops {

// The format, if the arguments of quantize_dequantize_float make sense.
core::FloatGrid check_float(const char* op, const at::Tensor& input, const at::Tensor& scale,
                            std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite,
                            bool unsigned_zero, bool saturate, at::OptionalIntArrayRef block_size);

// The element format and the axis (not negative) of quantize_dequantize_microscaling.
struct BlockFormat {
  core::FloatGrid grid;
  std::int64_t axis;
};
BlockFormat check_microscaling(const char* op, const at::Tensor& input, std::string_view element,
                               std::int64_t axis, std::int64_t block_size,
                               const std::optional<at::Tensor>& tensor_scale);

}  // namespace aimet::ops
