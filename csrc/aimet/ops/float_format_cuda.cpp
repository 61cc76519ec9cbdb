// CUDA kernels of the floating-point formats and of microscaling: checks, layout, launches; the
// loops are in cuda/float_format_kernel.cu and cuda/microscaling_kernel.cu.
#include "aimet/cuda/kernels.h"
#include "aimet/ops/block_layout.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/float_format_checks.h"
#include "aimet/ops/launch_cuda.h"
#include "aimet/ops/layout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>
#include <tuple>

namespace aimet {
namespace {

constexpr const char* kFloat = "quantize_dequantize_float";
constexpr const char* kMicroscaling = "quantize_dequantize_microscaling";

at::Tensor apply(const at::Tensor& input, const at::Tensor& scale, const core::FloatGrid& grid,
                 at::OptionalIntArrayRef block_size, const at::Tensor& mask) {
  const ops::CudaLaunch launch(kFloat, input.device());
  ops::check_device(kFloat, "scale", scale, input.device());
  const at::Tensor x = ops::dense(input);
  const ops::ChannelLayout layout = ops::channel_layout(x, scale.sizes(), block_size);
  const at::Tensor values =
      ops::channel_values_cuda(scale, layout, ops::compute_type(x), x.device());
  at::Tensor output = at::empty_like(x);
  const core::FloatFormatArguments arguments{
      x.const_data_ptr(),
      output.mutable_data_ptr(),
      mask.defined() ? mask.mutable_data_ptr<std::uint8_t>() : nullptr,
      values.const_data_ptr(),
      layout.shape,
      grid};
  launch.check(
      cuda::launch_float_format(ops::element_type(x), arguments, x.numel(), launch.stream()));
  return output;
}

at::Tensor empty_mask(const at::Tensor& input) {
  return at::empty({(input.numel() + 7) / 8}, input.options().dtype(at::kByte));
}

at::Tensor float_cuda(const at::Tensor& input, const at::Tensor& scale, std::int64_t exponent_bits,
                      std::int64_t mantissa_bits, bool finite, bool unsigned_zero, bool saturate,
                      at::OptionalIntArrayRef block_size) {
  const core::FloatGrid grid =
      ops::check_float(kFloat, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  return apply(input, scale, grid, block_size, {});
}

std::tuple<at::Tensor, at::Tensor> float_mask_cuda(const at::Tensor& input, const at::Tensor& scale,
                                                   std::int64_t exponent_bits,
                                                   std::int64_t mantissa_bits, bool finite,
                                                   bool unsigned_zero, bool saturate,
                                                   at::OptionalIntArrayRef block_size) {
  const core::FloatGrid grid =
      ops::check_float(kFloat, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  at::Tensor mask = empty_mask(input);
  at::Tensor output = apply(input, scale, grid, block_size, mask);
  return {output, mask};
}

std::tuple<at::Tensor, at::Tensor> float_backward_cuda(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
    bool saturate, at::OptionalIntArrayRef block_size, std::array<bool, 2> output_mask) {
  constexpr const char* kOp = "_quantize_dequantize_float_backward";
  const core::FloatGrid grid =
      ops::check_float(kOp, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                       saturate, block_size);
  TORCH_CHECK_VALUE(grad.sizes() == input.sizes(), kOp,
                    ": `grad` must have the shape of `input`, got ", grad.sizes(), " and ",
                    input.sizes());
  const ops::CudaLaunch launch(kOp, input.device());
  ops::check_device(kOp, "grad", grad, input.device());
  ops::check_device(kOp, "scale", scale, input.device());
  const at::Tensor x = ops::dense(input);
  const at::Tensor g = ops::in_layout_of(grad, x);
  const ops::ChannelLayout layout = ops::channel_layout(x, scale.sizes(), block_size);
  const at::Tensor values =
      ops::channel_values_cuda(scale, layout, ops::compute_type(x), x.device());
  const core::Reduction reduction{layout.shape};
  at::Tensor grad_input = output_mask[0] ? at::empty_like(x) : at::empty({0}, input.options());
  at::Tensor partials = at::empty({reduction.partial_count()}, input.options().dtype(at::kDouble));
  const core::FloatFormatBackwardArguments arguments{
      g.const_data_ptr(),
      x.const_data_ptr(),
      output_mask[0] ? grad_input.mutable_data_ptr() : nullptr,
      values.const_data_ptr(),
      partials.mutable_data_ptr<double>(),
      reduction,
      grid};
  launch.check(
      cuda::launch_float_format_backward(ops::element_type(x), arguments, launch.stream()));
  if (!output_mask[1]) return {grad_input, at::empty({0}, scale.options())};
  return {grad_input,
          ops::sum_to_parameter_cuda(ops::sum_partials_cuda(partials, reduction, launch), layout,
                                     scale.sizes(), scale, launch)};
}

// The tensor scale's value is not checked: reading it would make the host wait for the device.
std::tuple<at::Tensor, at::Tensor> apply_blocks(const at::Tensor& input, std::string_view element,
                                                std::int64_t axis, std::int64_t block_size,
                                                const std::optional<at::Tensor>& tensor_scale,
                                                const at::Tensor& mask) {
  const ops::BlockFormat format =
      ops::check_microscaling(kMicroscaling, input, element, axis, block_size, tensor_scale);
  const ops::CudaLaunch launch(kMicroscaling, input.device());
  const at::Tensor x = ops::dense(input);
  const at::ScalarType type = ops::compute_type(x);
  at::Tensor tensor_value;
  if (tensor_scale.has_value()) {
    ops::check_device(kMicroscaling, "tensor_scale", *tensor_scale, input.device());
    tensor_value = tensor_scale->to(x.options().dtype(type)).contiguous();
  }
  const ops::BlockLayout layout = ops::block_layout(x, format.axis);
  core::MicroscalingArguments arguments{
      x.const_data_ptr(),
      nullptr,
      mask.defined() ? mask.mutable_data_ptr<std::uint8_t>() : nullptr,
      nullptr,
      tensor_value.defined() ? tensor_value.const_data_ptr() : nullptr,
      layout.outer,
      layout.length,
      layout.inner,
      block_size,
      format.grid};
  at::Tensor output = at::empty_like(x);
  at::Tensor scale = ops::empty_block_values(x, format.axis, arguments.blocks(), type);
  arguments.output = output.mutable_data_ptr();
  arguments.scale = scale.mutable_data_ptr();
  launch.check(cuda::launch_microscaling(ops::element_type(x), arguments, launch.stream()));
  return {output, scale.contiguous()};
}

std::tuple<at::Tensor, at::Tensor> microscaling_cuda(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  return apply_blocks(input, element, axis, block_size, tensor_scale, {});
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> microscaling_mask_cuda(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  at::Tensor mask = empty_mask(input);
  auto [output, scale] = apply_blocks(input, element, axis, block_size, tensor_scale, mask);
  return {output, scale, mask};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CUDA, m) {
  m.impl("quantize_dequantize_float", &aimet::float_cuda);
  m.impl("_quantize_dequantize_float_mask", &aimet::float_mask_cuda);
  m.impl("_quantize_dequantize_float_backward", &aimet::float_backward_cuda);
  m.impl("quantize_dequantize_microscaling", &aimet::microscaling_cuda);
  m.impl("_quantize_dequantize_microscaling_mask", &aimet::microscaling_mask_cuda);
}
