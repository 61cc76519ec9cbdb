// Gradients of clamped_affine.h: straight-through estimator and the clamp's own gradient. Keeps one
// bit an element if only the input needs a gradient, else the input as it was before the clamp.
#include "aimet/ops/affine.h"
#include "aimet/ops/autograd.h"
#include "aimet/ops/clamped_affine.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace aimet {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Only the input needs a gradient.
struct ClampedInput : torch::autograd::Function<ClampedInput> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            std::optional<double> clamp_min, std::optional<double> clamp_max,
                            const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                            std::int64_t qmax, ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [output, mask] = clamp_quantize_dequantize_mask(
        input, clamp_min, clamp_max, scale, offset, qmin, qmax, ops::view_of(block_size));
    context->save_for_backward({mask});
    ops::save_layout(context, output);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const at::Tensor mask = context->get_saved_variables()[0];
    variable_list result(8);
    result[0] = quantize_dequantize_mask_backward(ops::in_saved_layout(context, grads[0]), mask);
    return result;
  }
};

// Scale or offset needs a gradient.
struct ClampedRange : torch::autograd::Function<ClampedRange> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            std::optional<double> clamp_min, std::optional<double> clamp_max,
                            const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                            std::int64_t qmax, ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({input, scale, offset});
    ops::save_grid(context, qmin, qmax, block_size);
    context->saved_data["clamp_min"] = clamp_min;
    context->saved_data["clamp_max"] = clamp_max;
    return clamp_quantize_dequantize(input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                                     ops::view_of(block_size));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const ops::SavedGrid grid = ops::saved_grid(context);
    const std::array<bool, 3> wanted = {context->needs_input_grad(0), context->needs_input_grad(1),
                                        context->needs_input_grad(2)};
    auto [input, scale, offset] = clamp_quantize_dequantize_backward(
        grads[0], saved[0], context->saved_data["clamp_min"].toOptional<double>(),
        context->saved_data["clamp_max"].toOptional<double>(), saved[1], saved[2], grid.qmin,
        grid.qmax, ops::view_of(grid.block_size), wanted);
    variable_list result(8);
    if (wanted[0]) result[0] = input;
    if (wanted[1]) result[3] = scale;
    if (wanted[2]) result[4] = offset;
    return result;
  }
};

// Without it, second derivatives would silently be missing.
struct NoSecondDerivative : torch::autograd::Function<NoSecondDerivative> {
  static variable_list forward(AutogradContext*, const at::Tensor& grad, const at::Tensor& input,
                               std::optional<double> clamp_min, std::optional<double> clamp_max,
                               const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                               std::int64_t qmax, ops::BlockSize block_size,
                               std::array<bool, 3> output_mask) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [grad_input, grad_scale, grad_offset] =
        clamp_quantize_dequantize_backward(grad, input, clamp_min, clamp_max, scale, offset, qmin,
                                           qmax, ops::view_of(block_size), output_mask);
    return {grad_input, grad_scale, grad_offset};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false,
        "clamp_quantize_dequantize: second derivatives need `scale` and `offset` that require no "
        "gradient; freeze the range, or call clamp, quantize and dequantize one after the other");
  }
};

at::Tensor clamped_autograd(const at::Tensor& input, std::optional<double> clamp_min,
                            std::optional<double> clamp_max, const at::Tensor& scale,
                            const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                            at::OptionalIntArrayRef block_size) {
  if (ops::needs_gradient(scale, offset)) {
    return ClampedRange::apply(input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                               ops::to_vector(block_size));
  }
  if (ops::needs_gradient(input)) {
    return ClampedInput::apply(input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                               ops::to_vector(block_size));
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return clamp_quantize_dequantize(input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                                   block_size);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> clamped_backward_autograd(
    const at::Tensor& grad, const at::Tensor& input, std::optional<double> clamp_min,
    std::optional<double> clamp_max, const at::Tensor& scale, const at::Tensor& offset,
    std::int64_t qmin, std::int64_t qmax, at::OptionalIntArrayRef block_size,
    std::array<bool, 3> output_mask) {
  if (ops::needs_gradient(grad, input, scale, offset)) {
    const variable_list result =
        NoSecondDerivative::apply(grad, input, clamp_min, clamp_max, scale, offset, qmin, qmax,
                                  ops::to_vector(block_size), output_mask);
    return {result[0], result[1], result[2]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return clamp_quantize_dequantize_backward(grad, input, clamp_min, clamp_max, scale, offset, qmin,
                                            qmax, block_size, output_mask);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("clamp_quantize_dequantize", &aimet::clamped_autograd);
  m.impl("_clamp_quantize_dequantize_backward", &aimet::clamped_backward_autograd);
}
