// Fallback of the floating-point formats and of microscaling for devices without kernels of ours:
// the formulas of docs/number_formats.md in ATen operations.
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/float_format_checks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/copysign.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/frexp.h>
#include <ATen/ops/ldexp.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

#include <array>
#include <limits>
#include <tuple>
#include <vector>

namespace aimet {
namespace {

at::Tensor powers_of_two(const at::Tensor& exponents, at::ScalarType type) {
  return at::ldexp(at::ones_like(exponents, exponents.options().dtype(type)), exponents);
}

at::Tensor round_to_format(const at::Tensor& ratio, const core::FloatGrid& grid) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const bool saturates = grid.overflow == core::Overflow::kSaturate;
  const at::Tensor magnitude = ratio.abs().clamp_max(saturates ? grid.largest : kInfinity);
  // |x| = mantissa * 2^exponent with a mantissa of [0.5, 1).
  const at::Tensor exponent = std::get<1>(at::frexp(magnitude)) - 1;
  const at::Tensor step = powers_of_two(
      exponent.clamp(grid.min_exponent, grid.max_exponent) - grid.mantissa_bits,
      ratio.scalar_type());
  at::Tensor rounded = (magnitude / step).round() * step;
  if (!saturates) {
    const double overflow = grid.overflow == core::Overflow::kInfinity
                                ? kInfinity
                                : std::numeric_limits<double>::quiet_NaN();
    rounded = at::where(rounded > grid.largest, overflow, rounded);
  }
  at::Tensor result = at::copysign(rounded, ratio);
  if (grid.is_zero_unsigned) result = at::where(result == 0, 0, result);
  return at::where(ratio.isnan(), ratio, result);
}

struct Rounded {
  at::Tensor output;
  at::Tensor inside;
  at::Tensor ratio;
  at::Tensor rounded;
};

Rounded float_values(const at::Tensor& input, const at::Tensor& scale, const core::FloatGrid& grid,
                     at::OptionalIntArrayRef block_size) {
  const at::ScalarType type = ops::compute_type_of(input);
  const at::Tensor s = ops::broadcastable(scale.to(input.options().dtype(type)), input,
                                          scale.sym_sizes(), block_size);
  const at::Tensor ratio = input.to(type) / s;
  const at::Tensor rounded = round_to_format(ratio, grid);
  return {ops::result_like(input, rounded * s), ratio.abs() <= grid.largest, ratio, rounded};
}

at::Tensor float_composite(const at::Tensor& input, const at::Tensor& scale,
                           std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite,
                           bool unsigned_zero, bool saturate, at::OptionalIntArrayRef block_size) {
  constexpr const char* kOp = "quantize_dequantize_float";
  const core::FloatGrid grid =
      ops::check_float(kOp, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  return float_values(input, scale, grid, block_size).output;
}

std::tuple<at::Tensor, at::Tensor> float_mask_composite(
    const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
    std::int64_t mantissa_bits, bool finite, bool unsigned_zero, bool saturate,
    at::OptionalIntArrayRef block_size) {
  constexpr const char* kOp = "quantize_dequantize_float";
  const core::FloatGrid grid =
      ops::check_float(kOp, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  const Rounded values = float_values(input, scale, grid, block_size);
  return {values.output, ops::packed_mask(values.output, values.inside)};
}

std::tuple<at::Tensor, at::Tensor> float_backward_composite(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
    bool saturate, at::OptionalIntArrayRef block_size, std::array<bool, 2> output_mask) {
  constexpr const char* kOp = "_quantize_dequantize_float_backward";
  const core::FloatGrid grid =
      ops::check_float(kOp, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  const Rounded values = float_values(input, scale, grid, block_size);
  const at::Tensor g = grad.to(values.ratio.scalar_type());
  at::Tensor grad_input = output_mask[0] ? ops::result_like(input, at::where(values.inside, g, 0))
                                         : at::empty({0}, input.options());
  at::Tensor grad_scale = at::empty({0}, scale.options());
  if (output_mask[1]) {
    const at::Tensor slope =
        at::where(values.inside, values.rounded - values.ratio, values.rounded);
    grad_scale = ops::gradient_of_parameter(g * slope, scale, scale.sym_sizes());
  }
  return {grad_input, grad_scale};
}

struct Blocks {
  at::Tensor output;
  at::Tensor scale;
  at::Tensor inside;
};

Blocks block_values(const at::Tensor& input, std::string_view element, std::int64_t axis,
                    std::int64_t block_size, const std::optional<at::Tensor>& tensor_scale) {
  const ops::BlockFormat format = ops::check_microscaling(
      "quantize_dequantize_microscaling", input, element, axis, block_size, tensor_scale);
  const at::ScalarType type = ops::compute_type_of(input);
  const at::Tensor x = input.to(type).movedim(format.axis, -1);
  const c10::SymInt length = x.sym_size(-1);
  const c10::SymInt block_count = (length + (block_size - 1)) / block_size;
  const at::Tensor padded =
      at::constant_pad_nd_symint(x, {0, block_count * block_size - length}, 0);
  std::vector<c10::SymInt> sizes = x.sym_sizes().vec();
  sizes.back() = block_count;
  sizes.push_back(block_size);
  const at::Tensor blocks = padded.reshape_symint(sizes);
  const at::Tensor largest =
      at::where(blocks.isfinite(), blocks.abs(), 0).amax(at::IntArrayRef({-1}), true);
  at::Tensor scale;
  if (tensor_scale.has_value()) {
    const at::Tensor t = tensor_scale->to(input.options().dtype(type)).reshape({});
    const at::Tensor rounded = round_to_format(largest / 6 / t, core::nvfp4_scale_grid());
    scale = (rounded.clamp_min(0x1p-9) * t).clamp_min(0x1p-126);
  } else {
    const at::Tensor exponent = std::get<1>(at::frexp(largest)) - 1 - format.grid.max_exponent;
    scale = powers_of_two(at::where(largest == 0, core::kMinScaleExponent, exponent)
                              .clamp(core::kMinScaleExponent, core::kMaxScaleExponent),
                          type);
  }
  const at::Tensor ratio = blocks / scale;
  const auto in_place = [&](const at::Tensor& values) {
    std::vector<c10::SymInt> flat = padded.sym_sizes().vec();
    return values.reshape_symint(flat).narrow_symint(-1, 0, length).movedim(-1, format.axis);
  };
  return {ops::result_like(input, in_place(round_to_format(ratio, format.grid) * scale)),
          scale.squeeze(-1).movedim(-1, format.axis).contiguous(),
          in_place(ratio.abs() <= format.grid.largest)};
}

std::tuple<at::Tensor, at::Tensor> microscaling_composite(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  const Blocks blocks = block_values(input, element, axis, block_size, tensor_scale);
  return {blocks.output, blocks.scale};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> microscaling_mask_composite(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  const Blocks blocks = block_values(input, element, axis, block_size, tensor_scale);
  return {blocks.output, blocks.scale, ops::packed_mask(blocks.output, blocks.inside)};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("quantize_dequantize_float", &aimet::float_composite);
  m.impl("_quantize_dequantize_float_mask", &aimet::float_mask_composite);
  m.impl("_quantize_dequantize_float_backward", &aimet::float_backward_composite);
  m.impl("quantize_dequantize_microscaling", &aimet::microscaling_composite);
  m.impl("_quantize_dequantize_microscaling_mask", &aimet::microscaling_mask_composite);
}
