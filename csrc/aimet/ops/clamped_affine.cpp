// C++ API, Meta kernels and ATen fallback of clamped_affine.h. The fallback also serves CUDA: the
// same bits, in several kernels.
#include "aimet/ops/clamped_affine.h"

#include "aimet/ops/affine.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/dispatch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

namespace aimet {

at::Tensor clamp_quantize_dequantize(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(clamp_quantize_dequantize)>(
      "aimet::clamp_quantize_dequantize");
  return op.call(input, clamp_min, clamp_max, scale, offset, qmin, qmax, block_size);
}

std::tuple<at::Tensor, at::Tensor> clamp_quantize_dequantize_mask(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  static const auto op = ops::find_operator<decltype(clamp_quantize_dequantize_mask)>(
      "aimet::_clamp_quantize_dequantize_mask");
  return op.call(input, clamp_min, clamp_max, scale, offset, qmin, qmax, block_size);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> clamp_quantize_dequantize_backward(
    const at::Tensor& grad, const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  static const auto op = ops::find_operator<decltype(clamp_quantize_dequantize_backward)>(
      "aimet::_clamp_quantize_dequantize_backward");
  return op.call(grad, input, clamp_min, clamp_max, scale, offset, qmin, qmax, block_size,
                 output_mask);
}

namespace ops {

void check_clamped(const char* op, const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  check_affine(op, input, scale, offset, block_size);
  check_grid(op, qmin, qmax);
  TORCH_CHECK_VALUE(clamp_min.has_value() || clamp_max.has_value(), op,
                    ": one of `clamp_min` and `clamp_max` must be given, got None for both; "
                    "without a clamp use quantize_dequantize");
  TORCH_CHECK_VALUE(
      !clamp_min.has_value() || !clamp_max.has_value() || *clamp_min <= *clamp_max, op,
      ": `clamp_min` must not exceed `clamp_max`, got ", *clamp_min, " and ", *clamp_max);
}

}  // namespace ops

namespace {

at::Tensor clamped_meta(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  ops::check_clamped(ops::kClamped, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  return at::empty_like(input);
}

std::tuple<at::Tensor, at::Tensor> clamped_mask_meta(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  at::Tensor output =
      clamped_meta(input, clamp_min, clamp_max, scale, offset, qmin, qmax, block_size);
  return {output,
          at::empty_symint({(input.sym_numel() + 7) / 8}, input.options().dtype(at::kByte))};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> clamped_backward_meta(
    const at::Tensor& grad, const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  ops::check_clamped(ops::kClampedBackward, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  return quantize_dequantize_backward(grad, input, scale, offset, qmin, qmax, block_size,
                                      output_mask);
}

at::Tensor clamped(const at::Tensor& input, std::optional<double> low,
                   std::optional<double> high) {
  const auto bound = [](std::optional<double> value) {
    return value.has_value() ? std::optional<at::Scalar>(*value) : std::nullopt;
  };
  return at::clamp(input, bound(low), bound(high));
}

// Where the gradient of the clamp passes; compared as at::hardtanh_backward does.
at::Tensor passes(const at::Tensor& input, std::optional<double> low, std::optional<double> high) {
  const at::Tensor x = input.to(ops::compute_type_of(input));
  if (!low.has_value()) return x < *high;
  return high.has_value() ? (x > *low).logical_and_(x < *high) : x > *low;
}

at::Tensor clamped_composite(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  ops::check_clamped(ops::kClamped, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  return quantize_dequantize(clamped(input, clamp_min, clamp_max), scale, offset, qmin, qmax,
                             block_size);
}

std::tuple<at::Tensor, at::Tensor> clamped_mask_composite(
    const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size) {
  ops::check_clamped(ops::kClamped, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  auto [output, inside] = quantize_dequantize_mask(clamped(input, clamp_min, clamp_max), scale,
                                                   offset, qmin, qmax, block_size);
  const at::Tensor mask = ops::packed_mask(output, passes(input, clamp_min, clamp_max));
  return {output, mask.bitwise_and(inside)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> clamped_backward_composite(
    const at::Tensor& grad, const at::Tensor& input, std::optional<double> clamp_min, std::optional<double> clamp_max,
    const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  ops::check_clamped(ops::kClampedBackward, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                     block_size);
  auto [grad_input, grad_scale, grad_offset] =
      quantize_dequantize_backward(grad, clamped(input, clamp_min, clamp_max), scale, offset, qmin,
                                   qmax, block_size, output_mask);
  if (output_mask[0]) {
    grad_input = ops::result_like(
        input, at::where(passes(input, clamp_min, clamp_max), grad_input, 0));
  }
  return {grad_input, grad_scale, grad_offset};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Meta, m) {
  m.impl("clamp_quantize_dequantize", &aimet::clamped_meta);
  m.impl("_clamp_quantize_dequantize_mask", &aimet::clamped_mask_meta);
  m.impl("_clamp_quantize_dequantize_backward", &aimet::clamped_backward_meta);
}
TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("clamp_quantize_dequantize", &aimet::clamped_composite);
  m.impl("_clamp_quantize_dequantize_mask", &aimet::clamped_mask_composite);
  m.impl("_clamp_quantize_dequantize_backward", &aimet::clamped_backward_composite);
}
