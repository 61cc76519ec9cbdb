// CUDA kernels of the affine operators: checks, layout, launches; the loops are in
// cuda/affine*_kernel.cu. No CUDA header: everything of torch's that is needed is behind c10's
// device-neutral interface.
#include "aimet/cuda/kernels.h"
#include "aimet/ops/affine.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/launch_cuda.h"
#include "aimet/ops/layout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace aimet {
namespace {

struct Parameters {
  ops::ChannelLayout layout;
  at::Tensor scale;   // (channels), compute type
  at::Tensor offset;  // (channels), compute type
};

// Values of scales on a device are not checked: reading them would make the host wait for the
// device.
Parameters parameters_of(const char* op, const at::Tensor& input, const at::Tensor& scale,
                         const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  ops::check_device(op, "scale", scale, input.device());
  ops::check_device(op, "offset", offset, input.device());
  const at::ScalarType type = ops::compute_type(input);
  Parameters result{ops::channel_layout(input, scale.sizes(), block_size), {}, {}};
  result.scale = ops::channel_values_cuda(scale, result.layout, type, input.device());
  result.offset = ops::channel_values_cuda(offset, result.layout, type, input.device());
  return result;
}

at::Tensor apply(const char* op, core::AffineMode mode, const at::Tensor& input,
                 const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                 std::int64_t qmax, at::OptionalIntArrayRef block_size, const at::Tensor& mask) {
  const ops::CudaLaunch launch(op, input.device());
  const at::Tensor x = ops::dense(input);
  const Parameters parameters = parameters_of(op, x, scale, offset, block_size);
  at::Tensor output = at::empty_like(x);
  const core::AffineArguments arguments{
      x.const_data_ptr(),
      output.mutable_data_ptr(),
      mask.defined() ? mask.mutable_data_ptr<std::uint8_t>() : nullptr,
      parameters.scale.const_data_ptr(),
      parameters.offset.const_data_ptr(),
      parameters.layout.shape,
      static_cast<double>(qmin),
      static_cast<double>(qmax)};
  launch.check(
      cuda::launch_affine(ops::element_type(x), mode, arguments, x.numel(), launch.stream()));
  return output;
}

at::Tensor quantize_cuda(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
                         std::int64_t qmin, std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize", input, scale, offset, block_size);
  ops::check_grid("quantize", qmin, qmax);
  return apply("quantize", core::AffineMode::kQuantize, input, scale, offset, qmin, qmax,
               block_size, {});
}

at::Tensor dequantize_cuda(const at::Tensor& input, const at::Tensor& scale,
                           const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  ops::check_affine("dequantize", input, scale, offset, block_size);
  return apply("dequantize", core::AffineMode::kDequantize, input, scale, offset, 0, 0, block_size,
               {});
}

at::Tensor quantize_dequantize_cuda(const at::Tensor& input, const at::Tensor& scale,
                                    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                                    at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize_dequantize", input, scale, offset, block_size);
  ops::check_grid("quantize_dequantize", qmin, qmax);
  return apply("quantize_dequantize", core::AffineMode::kQuantizeDequantize, input, scale, offset,
               qmin, qmax, block_size, {});
}

std::tuple<at::Tensor, at::Tensor> mask_cuda(const at::Tensor& input, const at::Tensor& scale,
                                             const at::Tensor& offset, std::int64_t qmin,
                                             std::int64_t qmax,
                                             at::OptionalIntArrayRef block_size) {
  ops::check_affine("quantize_dequantize", input, scale, offset, block_size);
  ops::check_grid("quantize_dequantize", qmin, qmax);
  at::Tensor mask = at::empty({(input.numel() + 7) / 8}, input.options().dtype(at::kByte));
  at::Tensor output = apply("quantize_dequantize", core::AffineMode::kQuantizeDequantize, input,
                            scale, offset, qmin, qmax, block_size, mask);
  return {output, mask};
}

at::Tensor mask_backward_cuda(const at::Tensor& grad, const at::Tensor& mask) {
  constexpr const char* kOp = "_quantize_dequantize_mask_backward";
  TORCH_CHECK_VALUE(grad.device() == mask.device(), kOp,
                    ": `grad` and `mask` must be on one device, got ", grad.device(), " and ",
                    mask.device());
  const ops::CudaLaunch launch(kOp, grad.device());
  const at::Tensor g = ops::dense(grad);
  TORCH_CHECK_VALUE(mask.scalar_type() == at::kByte && mask.numel() == (g.numel() + 7) / 8, kOp,
                    ": `mask` must be uint8 with one bit for each element of `grad`, got ",
                    mask.numel(), " elements of ", mask.scalar_type(), " for grad of shape ",
                    g.sizes());
  at::Tensor output = at::empty_like(g);
  const at::Tensor bits = mask.contiguous();
  launch.check(cuda::launch_select_by_mask(static_cast<int>(g.element_size()), g.const_data_ptr(),
                                           bits.const_data_ptr<std::uint8_t>(),
                                           output.mutable_data_ptr(), g.numel(), launch.stream()));
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  constexpr const char* kOp = "_quantize_dequantize_backward";
  ops::check_affine(kOp, input, scale, offset, block_size);
  ops::check_grid(kOp, qmin, qmax);
  TORCH_CHECK_VALUE(grad.sizes() == input.sizes(), kOp,
                    ": `grad` must have the shape of `input`, got ", grad.sizes(), " and ",
                    input.sizes());
  const ops::CudaLaunch launch(kOp, input.device());
  ops::check_device(kOp, "grad", grad, input.device());
  const at::Tensor x = ops::dense(input);
  const at::Tensor g = ops::in_layout_of(grad, x);
  const Parameters parameters = parameters_of(kOp, x, scale, offset, block_size);
  const core::Reduction reduction{parameters.layout.shape};
  at::Tensor grad_input = output_mask[0] ? at::empty_like(x) : at::empty({0}, input.options());
  const at::TensorOptions double_options = input.options().dtype(at::kDouble);
  at::Tensor partial_scale = at::empty({reduction.partial_count()}, double_options);
  at::Tensor partial_offset = at::empty({reduction.partial_count()}, double_options);
  const core::AffineBackwardArguments arguments{
      g.const_data_ptr(),
      x.const_data_ptr(),
      output_mask[0] ? grad_input.mutable_data_ptr() : nullptr,
      parameters.scale.const_data_ptr(),
      parameters.offset.const_data_ptr(),
      partial_scale.mutable_data_ptr<double>(),
      partial_offset.mutable_data_ptr<double>(),
      reduction,
      static_cast<double>(qmin),
      static_cast<double>(qmax)};
  launch.check(cuda::launch_affine_backward(ops::element_type(x), arguments, launch.stream()));

  const auto reduced = [&](bool is_wanted, const at::Tensor& partials,
                           const at::Tensor& parameter) {
    if (!is_wanted) return at::empty({0}, parameter.options());
    return ops::sum_to_parameter_cuda(ops::sum_partials_cuda(partials, reduction, launch),
                                      parameters.layout, scale.sizes(), parameter, launch);
  };
  return {grad_input, reduced(output_mask[1], partial_scale, scale),
          reduced(output_mask[2], partial_offset, offset)};
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CUDA, m) {
  m.impl("quantize", &aimet::quantize_cuda);
  m.impl("dequantize", &aimet::dequantize_cuda);
  m.impl("quantize_dequantize", &aimet::quantize_dequantize_cuda);
  m.impl("_quantize_dequantize_mask", &aimet::mask_cuda);
  m.impl("_quantize_dequantize_mask_backward", &aimet::mask_backward_cuda);
  m.impl("_quantize_dequantize_backward", &aimet::backward_cuda);
}
