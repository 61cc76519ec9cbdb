// Gradients of the floating-point formats and of microscaling: straight-through estimator. The
// input is kept only when the scale needs a gradient, else one bit an element.
#include "aimet/ops/affine.h"
#include "aimet/ops/autograd.h"
#include "aimet/ops/float_format.h"
#include "aimet/ops/microscaling.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>

namespace aimet {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct FloatInput : torch::autograd::Function<FloatInput> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& scale, std::int64_t exponent_bits,
                            std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
                            bool saturate, ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [output, mask] =
        quantize_dequantize_float_mask(input, scale, exponent_bits, mantissa_bits, finite,
                                       unsigned_zero, saturate, ops::view_of(block_size));
    context->save_for_backward({mask});
    ops::save_layout(context, output);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(8);
    result[0] = quantize_dequantize_mask_backward(ops::in_saved_layout(context, grads[0]),
                                                  context->get_saved_variables()[0]);
    return result;
  }
};

struct FloatScale : torch::autograd::Function<FloatScale> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& scale, std::int64_t exponent_bits,
                            std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
                            bool saturate, ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({input, scale});
    context->saved_data["format"] = std::vector<std::int64_t>{exponent_bits, mantissa_bits, finite,
                                                              unsigned_zero, saturate};
    if (block_size.has_value()) context->saved_data["block_size"] = *block_size;
    return quantize_dequantize_float(input, scale, exponent_bits, mantissa_bits, finite,
                                     unsigned_zero, saturate, ops::view_of(block_size));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const std::vector<std::int64_t> format = context->saved_data["format"].toIntVector();
    ops::BlockSize block_size;
    const auto found = context->saved_data.find("block_size");
    if (found != context->saved_data.end()) block_size = found->second.toIntVector();
    const std::array<bool, 2> wanted = {context->needs_input_grad(0), context->needs_input_grad(1)};
    auto [input, scale] = quantize_dequantize_float_backward(
        grads[0], saved[0], saved[1], format[0], format[1], format[2] != 0, format[3] != 0,
        format[4] != 0, ops::view_of(block_size), wanted);
    variable_list result(8);
    if (wanted[0]) result[0] = input;
    if (wanted[1]) result[1] = scale;
    return result;
  }
};

// Without it, second derivatives would silently be missing.
struct NoSecondDerivative : torch::autograd::Function<NoSecondDerivative> {
  static variable_list forward(AutogradContext*, const at::Tensor& grad, const at::Tensor& input,
                               const at::Tensor& scale, std::int64_t exponent_bits,
                               std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
                               bool saturate, ops::BlockSize block_size,
                               std::array<bool, 2> output_mask) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [grad_input, grad_scale] = quantize_dequantize_float_backward(
        grad, input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero, saturate,
        ops::view_of(block_size), output_mask);
    return {grad_input, grad_scale};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false,
                                "quantize_dequantize_float: second derivatives need a `scale` that "
                                "requires no gradient; detach it");
  }
};

struct MicroscalingInput : torch::autograd::Function<MicroscalingInput> {
  static variable_list forward(AutogradContext* context, const at::Tensor& input,
                               const std::string& element, std::int64_t axis,
                               std::int64_t block_size,
                               const std::optional<at::Tensor>& tensor_scale) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [output, scale, mask] =
        quantize_dequantize_microscaling_mask(input, element, axis, block_size, tensor_scale);
    context->save_for_backward({mask});
    context->mark_non_differentiable({scale});
    ops::save_layout(context, output);
    return {output, scale};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(5);
    result[0] = quantize_dequantize_mask_backward(ops::in_saved_layout(context, grads[0]),
                                                  context->get_saved_variables()[0]);
    return result;
  }
};

at::Tensor float_autograd(const at::Tensor& input, const at::Tensor& scale,
                          std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite,
                          bool unsigned_zero, bool saturate, at::OptionalIntArrayRef block_size) {
  if (ops::needs_gradient(scale)) {
    return FloatScale::apply(input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                             saturate, ops::to_vector(block_size));
  }
  if (ops::needs_gradient(input)) {
    return FloatInput::apply(input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero,
                             saturate, ops::to_vector(block_size));
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantize_dequantize_float(input, scale, exponent_bits, mantissa_bits, finite,
                                   unsigned_zero, saturate, block_size);
}

std::tuple<at::Tensor, at::Tensor> float_backward_autograd(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    std::int64_t exponent_bits, std::int64_t mantissa_bits, bool finite, bool unsigned_zero,
    bool saturate, at::OptionalIntArrayRef block_size, std::array<bool, 2> output_mask) {
  if (ops::needs_gradient(grad, input, scale)) {
    const variable_list result =
        NoSecondDerivative::apply(grad, input, scale, exponent_bits, mantissa_bits, finite,
                                  unsigned_zero, saturate, ops::to_vector(block_size), output_mask);
    return {result[0], result[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantize_dequantize_float_backward(grad, input, scale, exponent_bits, mantissa_bits,
                                            finite, unsigned_zero, saturate, block_size,
                                            output_mask);
}

std::tuple<at::Tensor, at::Tensor> microscaling_autograd(
    const at::Tensor& input, std::string_view element, std::int64_t axis, std::int64_t block_size,
    const std::optional<at::Tensor>& tensor_scale) {
  if (ops::needs_gradient(input)) {
    const variable_list result =
        MicroscalingInput::apply(input, std::string(element), axis, block_size, tensor_scale);
    return {result[0], result[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantize_dequantize_microscaling(input, element, axis, block_size, tensor_scale);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("quantize_dequantize_float", &aimet::float_autograd);
  m.impl("_quantize_dequantize_float_backward", &aimet::float_backward_autograd);
  m.impl("quantize_dequantize_microscaling", &aimet::microscaling_autograd);
}
