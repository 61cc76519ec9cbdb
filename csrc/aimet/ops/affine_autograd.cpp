// Gradients of the affine operators: straight-through estimator, docs/numerics.md "Gradients".
// quantize_dequantize keeps its input only when scale or offset needs a gradient, else one bit per
// element.
#include "aimet/ops/affine.h"
#include "aimet/ops/affine_composite.h"
#include "aimet/ops/autograd.h"
#include "aimet/ops/dispatch.h"
#include "aimet/ops/min_max.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace aimet {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Only the input needs a gradient.
struct QuantizeDequantizeInput : torch::autograd::Function<QuantizeDequantizeInput> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                            std::int64_t qmax, ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [output, mask] =
        quantize_dequantize_mask(input, scale, offset, qmin, qmax, ops::view_of(block_size));
    context->save_for_backward({mask});
    ops::save_layout(context, output);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const at::Tensor mask = context->get_saved_variables()[0];
    const at::Tensor grad = ops::in_saved_layout(context, grads[0]);
    return {quantize_dequantize_mask_backward(grad, mask), {}, {}, {}, {}, {}};
  }
};

// The gradient's own gradient (create_graph=True): selecting by a mask is linear.
struct MaskSelection : torch::autograd::Function<MaskSelection> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& grad,
                            const at::Tensor& mask) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor output = quantize_dequantize_mask_backward(grad, mask);
    context->save_for_backward({mask});
    ops::save_layout(context, output);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const at::Tensor mask = context->get_saved_variables()[0];
    return {quantize_dequantize_mask_backward(ops::in_saved_layout(context, grads[0]), mask), {}};
  }
};

// Scale or offset needs a gradient.
struct QuantizeDequantizeRange : torch::autograd::Function<QuantizeDequantizeRange> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                            std::int64_t qmax, ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({input, scale, offset});
    ops::save_grid(context, qmin, qmax, block_size);
    return quantize_dequantize(input, scale, offset, qmin, qmax, ops::view_of(block_size));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const ops::SavedGrid grid = ops::saved_grid(context);
    const std::array<bool, 3> wanted = {context->needs_input_grad(0), context->needs_input_grad(1),
                                        context->needs_input_grad(2)};
    auto [input, scale, offset] =
        quantize_dequantize_backward(grads[0], saved[0], saved[1], saved[2], grid.qmin, grid.qmax,
                                     ops::view_of(grid.block_size), wanted);
    return {wanted[0] ? input : at::Tensor(),
            wanted[1] ? scale : at::Tensor(),
            wanted[2] ? offset : at::Tensor(),
            {},
            {},
            {}};
  }
};

// Without it, second derivatives would silently be missing.
struct NoSecondDerivative : torch::autograd::Function<NoSecondDerivative> {
  static variable_list forward(AutogradContext*, const at::Tensor& grad, const at::Tensor& input,
                               const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                               std::int64_t qmax, ops::BlockSize block_size,
                               std::array<bool, 3> output_mask) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [grad_input, grad_scale, grad_offset] = quantize_dequantize_backward(
        grad, input, scale, offset, qmin, qmax, ops::view_of(block_size), output_mask);
    return {grad_input, grad_scale, grad_offset};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false,
        "quantize_dequantize: second derivatives need `scale` and `offset` that require no "
        "gradient; freeze the range, or call quantize and dequantize one after the other");
  }
};

// q = clamp(ste(x / s) - o): dx = m g / s, ds = -sum m g x / s^2, do = -sum m g.
struct QuantizeFunction : torch::autograd::Function<QuantizeFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
                            std::int64_t qmax, ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({input, scale, offset});
    ops::save_grid(context, qmin, qmax, block_size);
    return quantize(input, scale, offset, qmin, qmax, ops::view_of(block_size));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const ops::SavedGrid grid = ops::saved_grid(context);
    const ops::Affine a =
        ops::affine_of(saved[0], saved[1], saved[2], ops::view_of(grid.block_size));
    const at::Tensor ratio = a.input / a.scale;
    const at::Tensor codes = ratio.round() - a.offset;
    const at::Tensor inside = (codes >= grid.qmin).logical_and(codes <= grid.qmax);
    const at::Tensor g = at::where(inside, grads[0].to(ratio.scalar_type()), 0);
    variable_list result(6);
    const c10::SymIntArrayRef sizes = saved[1].sym_sizes();
    if (context->needs_input_grad(0)) result[0] = (g / a.scale).to(saved[0].scalar_type());
    if (context->needs_input_grad(1)) {
      result[1] = ops::gradient_of_parameter(-g * ratio / a.scale, saved[1], sizes);
    }
    if (context->needs_input_grad(2)) result[2] = ops::gradient_of_parameter(-g, saved[2], sizes);
    return result;
  }
};

// x = (q + o) s: dq = g s, ds = sum g (q + o), do = sum g s.
struct DequantizeFunction : torch::autograd::Function<DequantizeFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& scale, const at::Tensor& offset,
                            ops::BlockSize block_size) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({input, scale, offset});
    ops::save_grid(context, 0, 0, block_size);
    return dequantize(input, scale, offset, ops::view_of(block_size));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const ops::SavedGrid grid = ops::saved_grid(context);
    const ops::Affine a =
        ops::affine_of(saved[0], saved[1], saved[2], ops::view_of(grid.block_size));
    const at::Tensor g = grads[0].to(a.input.scalar_type());
    const at::Tensor scaled = g * a.scale;
    variable_list result(4);
    const c10::SymIntArrayRef sizes = saved[1].sym_sizes();
    if (context->needs_input_grad(0)) result[0] = scaled.to(saved[0].scalar_type());
    if (context->needs_input_grad(1)) {
      result[1] = ops::gradient_of_parameter(g * (a.input + a.offset), saved[1], sizes);
    }
    if (context->needs_input_grad(2))
      result[2] = ops::gradient_of_parameter(scaled, saved[2], sizes);
    return result;
  }
};

at::Tensor quantize_dequantize_autograd(c10::DispatchKeySet keys, const at::Tensor& input,
                                        const at::Tensor& scale, const at::Tensor& offset,
                                        std::int64_t qmin, std::int64_t qmax,
                                        at::OptionalIntArrayRef block_size) {
  if (ops::needs_gradient(scale, offset)) {
    return QuantizeDequantizeRange::apply(input, scale, offset, qmin, qmax,
                                          ops::to_vector(block_size));
  }
  if (ops::needs_gradient(input)) {
    return QuantizeDequantizeInput::apply(input, scale, offset, qmin, qmax,
                                          ops::to_vector(block_size));
  }
  // On small tensors the way to the kernel is all that counts: no second look at the keys.
  static const auto op =
      ops::find_operator<decltype(quantize_dequantize)>("aimet::quantize_dequantize");
  return op.redispatch(keys & c10::after_ADInplaceOrView_keyset, input, scale, offset, qmin, qmax,
                       block_size);
}

// The gradient is that of quantize_dequantize; limits are constants.
std::tuple<at::Tensor, at::Tensor, at::Tensor> with_limits_autograd(
    const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset, std::int64_t qmin,
    std::int64_t qmax, at::OptionalIntArrayRef block_size) {
  if (ops::needs_gradient(input, scale, offset)) {
    auto [low, high] = min_max(input.detach(), scale.sym_sizes(), block_size);
    return {quantize_dequantize(input, scale, offset, qmin, qmax, block_size), low, high};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantize_dequantize_min_max(input, scale, offset, qmin, qmax, block_size);
}

at::Tensor quantize_autograd(const at::Tensor& input, const at::Tensor& scale,
                             const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                             at::OptionalIntArrayRef block_size) {
  if (ops::needs_gradient(input, scale, offset)) {
    return QuantizeFunction::apply(input, scale, offset, qmin, qmax, ops::to_vector(block_size));
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantize(input, scale, offset, qmin, qmax, block_size);
}

at::Tensor dequantize_autograd(const at::Tensor& input, const at::Tensor& scale,
                               const at::Tensor& offset, at::OptionalIntArrayRef block_size) {
  if (ops::needs_gradient(input, scale, offset)) {
    return DequantizeFunction::apply(input, scale, offset, ops::to_vector(block_size));
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return dequantize(input, scale, offset, block_size);
}

at::Tensor mask_backward_autograd(const at::Tensor& grad, const at::Tensor& mask) {
  if (ops::needs_gradient(grad)) return MaskSelection::apply(grad, mask);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantize_dequantize_mask_backward(grad, mask);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_autograd(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& scale,
    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
    at::OptionalIntArrayRef block_size, std::array<bool, 3> output_mask) {
  if (ops::needs_gradient(grad, input, scale, offset)) {
    const variable_list result = NoSecondDerivative::apply(grad, input, scale, offset, qmin, qmax,
                                                           ops::to_vector(block_size), output_mask);
    return {result[0], result[1], result[2]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return quantize_dequantize_backward(grad, input, scale, offset, qmin, qmax, block_size,
                                      output_mask);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, Autograd, m) {
  m.impl("quantize", &aimet::quantize_autograd);
  m.impl("dequantize", &aimet::dequantize_autograd);
  m.impl("quantize_dequantize", &aimet::quantize_dequantize_autograd);
  m.impl("quantize_dequantize_min_max", &aimet::with_limits_autograd);
  m.impl("_quantize_dequantize_mask_backward", &aimet::mask_backward_autograd);
  m.impl("_quantize_dequantize_backward", &aimet::backward_autograd);
}
